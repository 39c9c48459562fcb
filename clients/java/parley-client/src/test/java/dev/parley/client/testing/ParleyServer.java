package dev.parley.client.testing;

import dev.parley.client.Backoff;
import dev.parley.client.ParleyClient;
import dev.parley.client.errors.ParleyException;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Comparator;
import java.util.stream.Stream;

/** A real server, {@code parley serve}, in its own process and folder. */
public final class ParleyServer implements AutoCloseable {
    private static final Backoff QUICK = new Backoff(Duration.ofMillis(20), Duration.ofMillis(50), Duration.ofSeconds(30));

    private static final Duration START = Duration.ofSeconds(30);

    /** A priced model that takes images, one that does not, and one whose provider cannot be reached. */
    private static final String CONFIG = """
            [providers.typewriter]
            kind = "scripted"
            [providers.gone]
            kind = "openai"
            base_url = "http://127.0.0.1:9/v1"
            retries = 0
            [models.scripted]
            provider = "typewriter"
            name = "scripted"
            images = true
            prices = { prompt = 2.0, completion = 8.0 }
            [models.blind]
            provider = "typewriter"
            name = "scripted"
            images = false
            [models.unreachable]
            provider = "gone"
            name = "vendor/model"
            fallback = ["scripted"]
            [server]
            default_model = "scripted"
            """;

    private final Path folder;
    private final int port;
    private final String config;
    private Process process;

    private ParleyServer(Path folder, int port, String config) {
        this.folder = folder;
        this.port = port;
        this.config = config;
    }

    /** Starts a server and waits until it answers. */
    public static ParleyServer start() { return start(""); }

    /** Starts a server with further tables of its configuration, and waits until it answers. */
    public static ParleyServer start(String tables) {
        try {
            ParleyServer server = new ParleyServer(Files.createTempDirectory("parley"), freePort(), CONFIG + tables);
            try {
                server.begin();
            } catch (IOException | RuntimeException failed) {
                server.close();
                throw failed;
            }
            return server;
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    public int port() { return port; }

    public String address() { return "127.0.0.1:" + port; }

    /** Starts the process, also again after {@link #kill}, with the same port and database. */
    public void begin() throws IOException {
        var builder = new ProcessBuilder(binary(), "serve");
        builder.directory(folder.toFile());
        builder.environment().keySet().removeIf(name -> name.startsWith("PARLEY_")); // it refuses those it does not know
        Path config = Files.writeString(folder.resolve("parley.toml"), this.config);
        builder.environment().put("PARLEY_CONFIG", config.toString());
        builder.environment().put("PARLEY_LISTEN", address());
        builder.environment().put("PARLEY_METRICS_LISTEN", "");
        builder.environment().put("PARLEY_DATABASE_URL", "sqlite+aiosqlite:///" + folder.resolve("parley.db"));
        builder.environment().remove("OPENAI_API_KEY");
        builder.redirectErrorStream(true).redirectOutput(ProcessBuilder.Redirect.appendTo(log().toFile()));
        process = builder.start();
        long deadline = System.nanoTime() + START.toNanos();
        while (!answers()) {
            if (System.nanoTime() > deadline || !process.isAlive()) {
                throw new IllegalStateException(Files.readString(log()));
            }
        }
    }

    /** Whether the server answers within the 5 seconds after which a new client stops. */
    private boolean answers() {
        try (ParleyClient client = ParleyClient.builder(address()).backoff(QUICK).build()) {
            return !client.models().isEmpty();
        } catch (ParleyException e) {
            return false;
        }
    }

    /** Ends the process with SIGKILL. */
    public void kill() throws InterruptedException {
        process.descendants().forEach(ProcessHandle::destroyForcibly);
        process.destroyForcibly().waitFor();
    }

    @Override
    public void close() {
        try {
            if (process == null) {
                return;
            }
            kill(); // not drained: replies that a test left running would hold it up
            try (Stream<Path> files = Files.walk(folder)) {
                files.sorted(Comparator.reverseOrder()).forEach(path -> path.toFile().delete());
            }
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    /** The command: PARLEY_BIN, or else that of the environment of `make setup` in a parent folder. */
    private static String binary() {
        String named = System.getenv("PARLEY_BIN");
        Path above = Path.of("").toAbsolutePath();
        while (named == null && above != null) {
            Path candidate = above.resolve(".venv/bin/parley");
            named = Files.isExecutable(candidate) ? candidate.toString() : null;
            above = above.getParent();
        }
        if (named == null) {
            throw new IllegalStateException("no .venv/bin/parley above " + Path.of("").toAbsolutePath() + "; see PARLEY_BIN");
        }
        return named;
    }

    private Path log() { return folder.resolve("server.log"); }

    private static int freePort() throws IOException {
        try (ServerSocket socket = new ServerSocket(0, 1, InetAddress.getLoopbackAddress())) {
            return socket.getLocalPort();
        }
    }
}
