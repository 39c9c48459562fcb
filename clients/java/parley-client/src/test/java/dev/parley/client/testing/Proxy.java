package dev.parley.client.testing;

import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.atomic.AtomicInteger;

/** A TCP proxy that a test can cut. */
public final class Proxy implements AutoCloseable {
    private final ServerSocket listening;
    private final int target;
    private final Set<Socket> open = ConcurrentHashMap.newKeySet();
    private final AtomicInteger taken = new AtomicInteger();

    public Proxy(int target) {
        this.target = target;
        try {
            listening = new ServerSocket(0, 50, InetAddress.getLoopbackAddress());
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
        run("proxy-accept", this::accept);
    }

    public String address() { return "127.0.0.1:" + listening.getLocalPort(); }

    /** How many connections were opened. */
    public int taken() { return taken.get(); }

    /** Resets all connections. New ones are accepted. */
    public void cut() {
        for (Socket socket : open) {
            try (socket) {
                socket.setSoLinger(true, 0);
            } catch (IOException closedAlready) {
                // It is closed already.
            }
        }
    }

    @Override
    public void close() {
        try {
            listening.close();
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
        cut();
    }

    private void accept() throws IOException {
        while (true) {
            Socket client = listening.accept();
            taken.incrementAndGet();
            try {
                Socket server = new Socket(InetAddress.getLoopbackAddress(), target);
                run("proxy-up", () -> pump(client, server));
                run("proxy-down", () -> pump(server, client));
            } catch (IOException refused) {
                client.close();
            }
        }
    }

    private void pump(Socket from, Socket to) throws IOException {
        open.add(from);
        from.setTcpNoDelay(true);
        byte[] buffer = new byte[16 * 1024];
        try (from; to; InputStream in = from.getInputStream()) {
            for (int count = in.read(buffer); count >= 0; count = in.read(buffer)) {
                to.getOutputStream().write(buffer, 0, count);
            }
        } finally {
            open.remove(from);
        }
    }

    private interface Work {
        void run() throws IOException;
    }

    private static void run(String name, Work work) {
        Thread thread = new Thread(() -> {
            try {
                work.run();
            } catch (IOException over) {
                // The connection was cut.
            }
        }, name);
        thread.setDaemon(true);
        thread.start();
    }
}
