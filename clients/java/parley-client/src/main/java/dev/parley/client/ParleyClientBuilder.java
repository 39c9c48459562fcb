package dev.parley.client;

import io.grpc.ChannelCredentials;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannelBuilder;
import io.grpc.TlsChannelCredentials;
import io.grpc.netty.shaded.io.grpc.netty.NettyChannelBuilder;
import io.grpc.netty.shaded.io.netty.channel.ChannelOption;
import java.time.Duration;
import java.util.Objects;
import java.util.concurrent.Executor;
import java.util.concurrent.TimeUnit;
import java.util.function.Consumer;
import java.util.function.Supplier;

/** Settings of a {@link ParleyClient}; all but the address have a default. */
public final class ParleyClientBuilder {
    private static final int MAX_MESSAGE_BYTES = 16 * 1024 * 1024;
    /** What a stream may hold that nobody reads. Netty's own choice grows up to 8 MiB a stream. */
    private static final int WINDOW_BYTES = 256 * 1024;
    /** For one address. Netty itself waits for half a minute. */
    private static final int CONNECT_MS = 5_000;

    private final String address;
    private String apiKey = "";
    private String endUser = "";
    private Backoff backoff = Backoff.DEFAULT;
    private Duration callTimeout = Duration.ofSeconds(30);
    private Duration silence = Duration.ofSeconds(90);
    private Duration attemptTimeout = Duration.ZERO;
    private ChannelCredentials credentials = InsecureChannelCredentials.create();
    private Consumer<ManagedChannelBuilder<?>> customizer = channel -> {};
    private Executor executor;
    private Supplier<? extends ReplyListener> observer = () -> event -> {};

    ParleyClientBuilder(String address) {
        this.address = Objects.requireNonNull(address);
    }

    /** A static key or a JWT. Null or empty is none. */
    public ParleyClientBuilder apiKey(String apiKey) {
        this.apiKey = Settings.checked("authorization", apiKey);
        return this;
    }

    /** Whom an API key acts for. Null or empty is none. */
    public ParleyClientBuilder endUser(String endUser) {
        this.endUser = Settings.checked("x-end-user", endUser);
        return this;
    }

    /** How streams and calls are tried again. */
    public ParleyClientBuilder backoff(Backoff backoff) {
        this.backoff = Objects.requireNonNull(backoff);
        return this;
    }

    /** The time limit of one attempt of a call that is not a stream. By default 30 s. */
    public ParleyClientBuilder callTimeout(Duration callTimeout) {
        this.callTimeout = positive("callTimeout", callTimeout);
        return this;
    }

    /** A stream that brings nothing for so long, not even a heartbeat, is attached anew. By default 90 s. */
    public ParleyClientBuilder silence(Duration silence) {
        this.silence = positive("silence", silence);
        return this;
    }

    /** A stream whose call has lasted so long is attached anew. By default there is no limit. */
    public ParleyClientBuilder attemptTimeout(Duration attemptTimeout) {
        this.attemptTimeout = positive("attemptTimeout", attemptTimeout);
        return this;
    }

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
        var settings = new Settings(apiKey, endUser, backoff, callTimeout, silence, attemptTimeout, observer);
        Reach reach = new Reach(address, !(credentials instanceof InsecureChannelCredentials));
        return new ParleyClient(new Connection(settings, channel, new Threads(executor), reach));
    }

    private static Duration positive(String name, Duration value) {
        if (value.isNegative() || value.isZero()) {
            throw new IllegalArgumentException(name + " must be positive, not " + value);
        }
        return value;
    }
}
