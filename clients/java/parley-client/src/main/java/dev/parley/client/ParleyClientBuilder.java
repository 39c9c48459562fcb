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

/** Builds a {@link ParleyClient}. All settings except the address have a default. */
public final class ParleyClientBuilder {
    private static final int MAX_MESSAGE_BYTES = 16 * 1024 * 1024;
    /** Limits the buffer of a stream that is not read. Netty's default grows up to 8 MiB per stream. */
    private static final int WINDOW_BYTES = 256 * 1024;
    /** Time limit per address. Netty's default is 30 s. */
    private static final int CONNECT_MS = 5_000;

    private final String address;
    private String apiKey = "";
    private Supplier<String> credential;
    private Duration credentialLimit = CredentialSource.LIMIT;
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

    /** An API key or a token (JWT). Null or empty means none. */
    public ParleyClientBuilder apiKey(String apiKey) {
        this.apiKey = Settings.checked("authorization", apiKey);
        this.credential = null;
        return this;
    }

    /**
     * A function that returns the API key or the token (JWT). It is called for each attempt of a call, so that tokens can
     * be renewed, on a thread of the client, which it may block for at most 10 s. If it fails, the call throws a
     * {@link dev.parley.client.errors.CredentialFailedException}.
     */
    public ParleyClientBuilder apiKey(Supplier<String> credential) {
        this.apiKey = "";
        this.credential = Objects.requireNonNull(credential);
        return this;
    }

    /** Time limit of the function for the credential, for tests. */
    ParleyClientBuilder credentialLimit(Duration limit) {
        this.credentialLimit = limit;
        return this;
    }

    /** The user on whose behalf the API key acts. Null or empty means none. */
    public ParleyClientBuilder endUser(String endUser) {
        this.endUser = Settings.checked("x-end-user", endUser);
        return this;
    }

    /** Retries of streams and calls. */
    public ParleyClientBuilder backoff(Backoff backoff) {
        this.backoff = Objects.requireNonNull(backoff);
        return this;
    }

    /** Time limit of each attempt of a unary call. By default 30 s. */
    public ParleyClientBuilder callTimeout(Duration callTimeout) {
        this.callTimeout = positive("callTimeout", callTimeout);
        return this;
    }

    /** A stream reconnects after this time without a chunk or heartbeat. By default 90 s. */
    public ParleyClientBuilder silence(Duration silence) {
        this.silence = positive("silence", silence);
        return this;
    }

    /** A stream reconnects when its call has lasted this long. By default there is no limit. */
    public ParleyClientBuilder attemptTimeout(Duration attemptTimeout) {
        this.attemptTimeout = positive("attemptTimeout", attemptTimeout);
        return this;
    }

    /** TLS with the system's root certificates. */
    public ParleyClientBuilder tls() {
        return tls(TlsChannelCredentials.create());
    }

    /** TLS with other root certificates, or with a client certificate: see {@link TlsChannelCredentials#newBuilder}. */
    public ParleyClientBuilder tls(ChannelCredentials credentials) {
        this.credentials = Objects.requireNonNull(credentials);
        return this;
    }

    /** Runs listeners and subscribers. The caller shuts it down. By default the client has one thread per core. */
    public ParleyClientBuilder executor(Executor executor) {
        this.executor = Objects.requireNonNull(executor);
        return this;
    }

    /**
     * Creates a listener for each stream, for metrics or traces. It receives every event just before the stream's
     * reader, and always the end; {@code onEnd} without a {@link ReplyEvent.Finished} means that the reader closed the
     * stream. It must not block. Its exceptions go to the thread's handler of uncaught exceptions.
     */
    public ParleyClientBuilder observer(Supplier<? extends ReplyListener> observer) {
        this.observer = Objects.requireNonNull(observer);
        return this;
    }

    /** Changes the gRPC channel before it is built: interceptors, proxies, other limits. Several run in order. */
    public ParleyClientBuilder channel(Consumer<ManagedChannelBuilder<?>> customizer) {
        this.customizer = this.customizer.andThen(customizer);
        return this;
    }

    /** Returns the client. It connects at its first call. */
    public ParleyClient build() {
        ManagedChannelBuilder<?> channel = NettyChannelBuilder.forTarget(address, credentials)
                .withOption(ChannelOption.CONNECT_TIMEOUT_MILLIS, CONNECT_MS)
                .flowControlWindow(WINDOW_BYTES)
                .keepAliveTime(30, TimeUnit.SECONDS)
                .keepAliveTimeout(10, TimeUnit.SECONDS)
                .maxInboundMessageSize(MAX_MESSAGE_BYTES)
                .disableRetry(); // gRPC hides its attempts and cannot resume a stream
        customizer.accept(channel);
        var settings = new Settings(apiKey, endUser, backoff, callTimeout, silence, attemptTimeout, observer);
        Reach reach = new Reach(address, !(credentials instanceof InsecureChannelCredentials));
        Threads threads = new Threads(executor);
        var source = credential == null ? null : new CredentialSource(credential, threads, credentialLimit);
        return new ParleyClient(new Connection(settings, source, channel, threads, reach));
    }

    private static Duration positive(String name, Duration value) {
        if (value.isNegative() || value.isZero()) {
            throw new IllegalArgumentException(name + " must be positive, not " + value);
        }
        return value;
    }
}
