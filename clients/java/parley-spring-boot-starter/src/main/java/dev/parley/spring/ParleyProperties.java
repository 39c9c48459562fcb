package dev.parley.spring;

import java.time.Duration;
import org.springframework.boot.context.properties.ConfigurationProperties;
import org.springframework.boot.context.properties.bind.DefaultValue;

/**
 * Settings of the application's Parley client.
 *
 * @param enabled whether the application gets a client
 * @param address host:port, or another gRPC target, of the server
 * @param apiKey static key or JWT; without one the client has no credential
 * @param endUser whom the client acts for; {@code ParleyClient.actingFor} says so for one request
 * @param callTimeout time limit of one attempt of a call
 * @param silence a stream that brings nothing for so long, not even a heartbeat, is attached anew
 * @param attemptTimeout a stream whose call has lasted so long is attached anew; no limit by default
 * @param tls encryption
 * @param backoff how calls and streams are tried again
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
     * @param enabled whether to use TLS; by default where a bundle is named
     * @param bundle SSL bundle with the roots, and perhaps a certificate, to use; the system's roots by default
     */
    public record Tls(Boolean enabled, String bundle) {
        boolean isOn() { return enabled != null ? enabled : bundle != null; }
    }

    /**
     * How calls and streams are tried again.
     *
     * @param first first delay; each further one is twice as long
     * @param max longest delay
     * @param maxElapsed since the first failure without progress in between; zero never tries again
     */
    public record Backoff(
            @DefaultValue("100ms") Duration first, @DefaultValue("5s") Duration max, @DefaultValue("60s") Duration maxElapsed) {}

    /** Does not tell the key. */
    @Override
    public String toString() { return "ParleyProperties[address=" + address + ", endUser=" + endUser + "]"; }
}
