package dev.parley.spring.web;

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.concurrent.TimeUnit;
import org.springframework.core.io.FileSystemResource;
import org.springframework.http.CacheControl;
import org.springframework.http.HttpHeaders;
import org.springframework.http.MediaType;
import org.springframework.web.servlet.function.RouterFunction;
import org.springframework.web.servlet.function.RouterFunctions;
import org.springframework.web.servlet.function.ServerResponse;

/** Serves the build of the page: its HTML at "/" and at the address of each conversation, and its assets. */
final class PageFiles {
    /** No inline script or style: text of a model that a fault would leave unescaped does not run. */
    private static final String POLICY = "default-src 'self'; img-src 'self' data: blob:; style-src 'self'; script-src 'self'; "
            + "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'";
    private static final Refusal NOT_BUILT = Refusal.of(
            404, "NOT_FOUND", "The page is not built. Build it with `npm ci && npm run build` in examples/page.");
    private static final long DAYS = 365;

    private PageFiles() {}

    /** Returns the routes of a folder, which may be built later; none for null. */
    static RouterFunction<ServerResponse> routes(Path folder) {
        if (folder == null) {
            return RouterFunctions.route(request -> false, request -> ServerResponse.notFound().build());
        }
        Path index = folder.toAbsolutePath().resolve("index.html");
        var assets = new FileSystemResource(folder.toAbsolutePath() + "/assets/");
        return RouterFunctions.route()
                .GET("/", request -> html(index))
                .GET("/c/{id}", request -> html(index))
                .add(RouterFunctions.resources("/assets/**", assets, (file, headers) -> {
                    headers.setCacheControl(CacheControl.maxAge(DAYS, TimeUnit.DAYS).cachePublic().immutable());
                    headers.set("X-Content-Type-Options", "nosniff");
                }))
                .build();
    }

    private static ServerResponse html(Path index) {
        if (!Files.isReadable(index)) {
            return ServerResponse.status(NOT_BUILT.status()).contentType(MediaType.APPLICATION_JSON).body(NOT_BUILT.body());
        }
        return ServerResponse.ok()
                .contentType(MediaType.parseMediaType("text/html;charset=utf-8"))
                .header("Content-Security-Policy", POLICY)
                .header("X-Content-Type-Options", "nosniff")
                .header("Referrer-Policy", "no-referrer")
                .header(HttpHeaders.CACHE_CONTROL, "no-cache")
                .body(new FileSystemResource(index));
    }
}
