package dev.parley.client.testing;

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;

/** Sends HTTP requests as a browser does, and reads server-sent events. */
public final class Browser {
    private final String address;
    private final String[] headers;
    private final HttpClient http = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();

    /** The headers are sent with each request: names and values in turn. */
    public Browser(int port, String... headers) {
        this.address = "http://127.0.0.1:" + port;
        this.headers = headers;
    }

    public HttpResponse<String> get(String path) { return text("GET", path, null); }

    public HttpResponse<String> delete(String path) { return text("DELETE", path, null); }

    public HttpResponse<String> post(String path, String json, String... more) { return text("POST", path, json, more); }

    public HttpResponse<String> text(String method, String path, String json, String... more) {
        return send(method, path, json, BodyHandlers.ofString(), more);
    }

    public HttpResponse<byte[]> bytes(String path) { return send("GET", path, null, BodyHandlers.ofByteArray()); }

    /** Opens a response, whose events are read later. */
    public Events open(String method, String path, String json, String... more) {
        return new Events(send(method, path, json, BodyHandlers.ofInputStream(), more));
    }

    private <T> HttpResponse<T> send(
            String method, String path, String json, HttpResponse.BodyHandler<T> handler, String... more) {
        var request = HttpRequest.newBuilder(URI.create(address + path));
        if (headers.length > 0) {
            request.headers(headers);
        }
        if (more.length > 0) {
            request.headers(more);
        }
        if (json != null) {
            request.header("Content-Type", "application/json");
        }
        request.method(method, json == null ? BodyPublishers.noBody() : BodyPublishers.ofString(json));
        try {
            return http.send(request.build(), handler);
        } catch (IOException | InterruptedException e) {
            throw new IllegalStateException(e);
        }
    }

    /** The lines of a response of server-sent events. */
    public static final class Events implements AutoCloseable {
        public final HttpResponse<InputStream> response;
        private final BufferedReader lines;

        Events(HttpResponse<InputStream> response) {
            this.response = response;
            this.lines = new BufferedReader(new InputStreamReader(response.body(), StandardCharsets.UTF_8));
        }

        /** The next line; null at the end of the response. */
        public String line() throws IOException { return lines.readLine(); }

        /** The data of the next event; null at the end of the response. */
        public String next() throws IOException {
            String line = line();
            while (line != null && !line.startsWith("data:")) {
                line = line();
            }
            return line == null ? null : line.substring("data:".length()).strip();
        }

        /** The data of all further events. */
        public List<String> rest() throws IOException {
            List<String> events = new ArrayList<>();
            for (String event = next(); event != null; event = next()) {
                events.add(event);
            }
            return events;
        }

        /** Leaves, as a browser whose tab is closed. */
        @Override
        public void close() throws IOException { lines.close(); }
    }
}
