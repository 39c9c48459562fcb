package dev.parley.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import dev.parley.client.errors.UnavailableException;
import dev.parley.client.testing.Certificate;
import dev.parley.client.testing.ScriptedServer;
import dev.parley.v1.Reply;
import io.grpc.TlsChannelCredentials;
import io.grpc.TlsServerCredentials;
import java.nio.file.Path;
import java.time.Duration;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** TLS with a given root certificate, with the system's, which do not trust the server, and with a client certificate. */
class TlsTest {
    private static final Backoff NEVER = new Backoff(Duration.ofMillis(1), Duration.ofMillis(1), Duration.ZERO);

    @Test
    void theServerMustBeTrusted(@TempDir Path folder) throws Exception {
        Certificate certificate = Certificate.create(folder);
        Reply reply = Reply.newBuilder().setId("r").build();
        try (var server = new ScriptedServer(
                        TlsServerCredentials.newBuilder().keyManager(certificate.keyManagers()).build());
                var trusting = ParleyClient.builder(server.address())
                        .tls(TlsChannelCredentials.newBuilder().trustManager(certificate.trustManagers()).build())
                        .build();
                var wary = ParleyClient.builder(server.address()).tls().backoff(NEVER).build();
                var plain = ParleyClient.builder(server.address()).backoff(NEVER).build()) {
            server.answer("GetReply", reply);
            assertEquals(reply, trusting.getReply("r"));
            assertThrows(UnavailableException.class, () -> wary.getReply("r"));
            assertThrows(UnavailableException.class, () -> plain.getReply("r"));
        }
    }

    @Test
    void aServerThatRequiresAClientCertificateGetsIt(@TempDir Path folder) throws Exception {
        Certificate certificate = Certificate.create(folder);
        Reply reply = Reply.newBuilder().setId("r").build();
        var trust = certificate.trustManagers();
        try (var server = new ScriptedServer(TlsServerCredentials.newBuilder()
                        .keyManager(certificate.keyManagers())
                        .trustManager(trust)
                        .clientAuth(TlsServerCredentials.ClientAuth.REQUIRE)
                        .build());
                var known = ParleyClient.builder(server.address())
                        .tls(TlsChannelCredentials.newBuilder().trustManager(trust).keyManager(certificate.keyManagers()).build())
                        .build();
                var unknown = ParleyClient.builder(server.address())
                        .tls(TlsChannelCredentials.newBuilder().trustManager(trust).build())
                        .backoff(NEVER)
                        .build()) {
            server.answer("GetReply", reply);
            assertEquals(reply, known.getReply("r"));
            assertThrows(UnavailableException.class, () -> unknown.getReply("r"));
        }
    }
}
