package dev.parley.spring.web;

import jakarta.servlet.http.HttpServletResponse;
import java.util.Map;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;
import org.springframework.http.ResponseEntity;
import org.springframework.web.bind.annotation.ExceptionHandler;

/**
 * Answers exceptions of the client, of Spring MVC and of the application with the JSON of a {@link Refusal}, without
 * internal details. To use it, declare
 *
 * <pre>{@code @RestControllerAdvice class Refusals extends RefusalAdvice {}}</pre>
 */
public class RefusalAdvice {
    private static final Logger LOG = LoggerFactory.getLogger(RefusalAdvice.class);

    @ExceptionHandler
    public ResponseEntity<Map<String, Object>> refuse(Exception error, HttpServletResponse response) {
        if (response.isCommitted()) {
            return null; // a browser that left while its events were sent
        }
        Refusal refusal = Refusal.of(error);
        if (refusal.status() == 500 || refusal.status() == 502) {
            LOG.error("a request failed", error);
        }
        return refusal.toResponse(details(error));
    }

    /** Further fields of the answer; an application may override it. */
    protected Map<String, ?> details(Exception error) { return Map.of(); }
}
