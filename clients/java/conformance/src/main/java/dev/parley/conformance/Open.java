package dev.parley.conformance;

import com.google.gson.JsonObject;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.stream.Stream;

/** The open TCP sockets of this process, and its threads by name without numbers. */
final class Open {
    /** The threads of the player, one per running command. */
    private static final String OWN = "player-command";
    /** Threads of the JVM, which start with the first blocking call and remain. */
    private static final Set<String> VIRTUAL_MACHINE = Set.of("Common-Cleaner", "Cleaner-", "process reaper", "Attach Listener");

    private final Map<String, Integer> idle = count();

    JsonObject beyondIdle() {
        JsonObject open = new JsonObject();
        open.addProperty("sockets", 0);
        count().forEach((kind, count) -> {
            int more = count - idle.getOrDefault(kind, 0);
            if (more > 0) {
                open.addProperty(kind, more);
            }
        });
        return open;
    }

    /** Returns a value of /proc/self/status in bytes. */
    static long statusBytes(String name) {
        return lines("/proc/self/status").stream()
                .filter(line -> line.startsWith(name + ":"))
                .mapToLong(line -> Long.parseLong(line.replaceAll("\\D", "")) * 1024)
                .sum();
    }

    private static Map<String, Integer> count() {
        Map<String, Integer> counts = new TreeMap<>();
        counts.put("sockets", sockets());
        for (Thread thread : Thread.getAllStackTraces().keySet()) {
            String kind = thread.getName().replaceAll("[-#]?\\d+", "");
            if (!kind.equals(OWN) && !VIRTUAL_MACHINE.contains(kind)) {
                counts.merge("threads " + kind, 1, Integer::sum);
            }
        }
        return counts;
    }

    private static int sockets() {
        Set<String> inodes = new HashSet<>();
        for (String table : List.of("tcp", "tcp6")) {
            lines("/proc/self/net/" + table).stream().skip(1).map(line -> line.trim().split(" +")[9]).forEach(inodes::add);
        }
        try (Stream<Path> entries = Files.list(Path.of("/proc/self/fd"))) {
            return (int) entries.map(Open::target)
                    .filter(target -> target.startsWith("socket:["))
                    .filter(target -> inodes.contains(target.substring("socket:[".length(), target.length() - 1)))
                    .count();
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    private static String target(Path entry) {
        try {
            return Files.readSymbolicLink(entry).toString();
        } catch (IOException gone) {
            return "";
        }
    }

    private static List<String> lines(String path) {
        try {
            return Files.readAllLines(Path.of(path));
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }
}
