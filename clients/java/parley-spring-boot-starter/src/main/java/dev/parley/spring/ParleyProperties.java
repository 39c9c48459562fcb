package dev.parley.spring;

import java.time.Duration;
import org.springframework.boot.context.properties.ConfigurationProperties;
import org.springframework.boot.context.properties.bind.DefaultValue;

/**
 * Settings of the application's Parley client.
 *
 * @param enabled whether to create a client
 * @param address host:port, or another gRPC target, of the server
 * @param apiKey static key or JWT; without one the client has no credential
 * @param endUser user on whose behalf the client acts; {@code ParleyClient.actingFor} sets it for one request
 * @param callTimeout time limit of each attempt of a unary call
 * @param silence a stream reconnects after this time without a chunk or heartbeat
 * @param attemptTimeout a stream reconnects when its call has lasted this long; no limit by default
 * @param tls encryption
 * @param backoff retries of calls and streams
 */
@ConfigurationProperties("parley")
public record ParleyProperties(
        @DefaultValue("true") boolean enabled,
        @DefaultValue("127.0.0.1:50051") String address,
        String apiKey,
        String endUser,
        @DefaultValue("30s") Duration callTimeout,
        @DefaultValue("90s") Duration silence,
        Duration attemptTimeout,
        @DefaultValue Tls tls,
        @DefaultValue Backoff backoff) {

    /**
     * Encryption.
     *
     * @param enabled whether to use TLS; by default if a bundle is set
     * @param bundle SSL bundle with root certificates and optionally a client certificate; by default the system's
     *     roots
     */
    public record Tls(Boolean enabled, String bundle) {
        boolean isOn() { return enabled != null ? enabled : bundle != null; }
    }

    /**
     * Retries of calls and streams.
     *
     * @param first first delay; each further one is twice as long
     * @param max longest delay
     * @param maxElapsed when retries stop, after the first failure since the last progress; zero disables retries
     */
    public record Backoff(
            @DefaultValue("100ms") Duration first, @DefaultValue("5s") Duration max, @DefaultValue("60s") Duration maxElapsed) {}

    /** Without the API key. */
    @Override
    public String toString() { return "ParleyProperties[address=" + address + ", endUser=" + endUser + "]"; }
}
