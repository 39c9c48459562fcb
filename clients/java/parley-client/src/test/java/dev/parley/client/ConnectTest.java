package dev.parley.client;

import static org.junit.jupiter.api.Assertions.assertNotNull;

import java.io.IOException;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** Connecting before the first call. */
@Timeout(20)
class ConnectTest {
    @Test
    void aClientConnectsBeforeItsFirstCallIfItIsAsked() throws IOException {
        try (ServerSocket server = new ServerSocket(0, 1, InetAddress.getLoopbackAddress());
                ParleyClient client = ParleyClient.builder("127.0.0.1:" + server.getLocalPort()).build()) {
            client.connect();
            try (Socket connection = server.accept()) {
                assertNotNull(connection);
            }
        }
    }
}
