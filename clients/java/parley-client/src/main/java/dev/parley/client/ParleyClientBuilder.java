package dev.parley.client;

import io.grpc.ChannelCredentials;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannelBuilder;
import io.grpc.TlsChannelCredentials;
import io.grpc.netty.shaded.io.grpc.netty.NettyChannelBuilder;
import io.grpc.netty.shaded.io.netty.channel.ChannelOption;
import java.util.Objects;
import java.util.concurrent.Executor;
import java.util.concurrent.TimeUnit;
import java.util.function.Consumer;
import java.util.function.Supplier;

/** Settings of a {@link ParleyClient}; all but the address have a default. */
public final class ParleyClientBuilder extends Options {
    private static final int MAX_MESSAGE_BYTES = 16 * 1024 * 1024;
    /** What a stream may hold that nobody reads. Netty's own choice grows up to 8 MiB a stream. */
    private static final int WINDOW_BYTES = 256 * 1024;
    private final String address;
    /** For one address. Netty itself waits for half a minute. */
    private static final int CONNECT_MS = 5_000;
    private ChannelCredentials credentials = InsecureChannelCredentials.create();
    private Consumer<ManagedChannelBuilder<?>> customizer = channel -> {};
    private Executor executor;
    private Supplier<? extends ReplyListener> observer = () -> event -> {};

    ParleyClientBuilder(String address) {
        this.address = Objects.requireNonNull(address);
    }

    @Override
    ParleyClientBuilder self() { return this; }

    /** TLS with the system's roots. */
    public ParleyClientBuilder tls() {
        return tls(TlsChannelCredentials.create());
    }

    /** TLS with roots, or a certificate, of one's own: see {@link TlsChannelCredentials#newBuilder}. */
    public ParleyClientBuilder tls(ChannelCredentials credentials) {
        this.credentials = Objects.requireNonNull(credentials);
        return this;
    }

    /** Runs listeners and subscribers; it stays the caller's to shut down. By default the client has one thread per core. */
    public ParleyClientBuilder executor(Executor executor) {
        this.executor = Objects.requireNonNull(executor);
        return this;
    }

    /**
     * Makes, for each stream that is started, a listener for metrics or traces: it is told the same as the stream's reader,
     * just before it, and of its end in any case: {@code onEnd} without a {@link ReplyEvent.Finished} before it is a reader
     * that has left. It must be quick; what it throws goes to the thread's handler of uncaught exceptions.
     */
    public ParleyClientBuilder observer(Supplier<? extends ReplyListener> observer) {
        this.observer = Objects.requireNonNull(observer);
        return this;
    }

    /** Changes the gRPC channel before it is built, after what came before: interceptors, proxies, other limits. */
    public ParleyClientBuilder channel(Consumer<ManagedChannelBuilder<?>> customizer) {
        this.customizer = this.customizer.andThen(customizer);
        return this;
    }

    /** A client, which need not be able to reach its server yet. */
    public ParleyClient build() {
        ManagedChannelBuilder<?> channel = NettyChannelBuilder.forTarget(address, credentials)
                .withOption(ChannelOption.CONNECT_TIMEOUT_MILLIS, CONNECT_MS)
                .flowControlWindow(WINDOW_BYTES)
                .keepAliveTime(30, TimeUnit.SECONDS)
                .keepAliveTimeout(10, TimeUnit.SECONDS)
                .maxInboundMessageSize(MAX_MESSAGE_BYTES)
                .disableRetry(); // gRPC would hide an attempt, and it cannot resume: this client tries again itself.
        customizer.accept(channel);
        Reach reach = new Reach(address, !(credentials instanceof InsecureChannelCredentials));
        return new ParleyClient(new Connection(settings(observer), channel, new Threads(executor), reach));
    }
}
