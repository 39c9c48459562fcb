package dev.parley.spring.web;

import dev.parley.client.errors.ContextTooLargeException;
import dev.parley.client.errors.InputTooLargeException;
import dev.parley.client.errors.ParleyException;
import dev.parley.client.errors.ReplyFailedException;
import java.time.Duration;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Optional;
import org.springframework.beans.TypeMismatchException;
import org.springframework.http.HttpHeaders;
import org.springframework.http.MediaType;
import org.springframework.http.ResponseEntity;
import org.springframework.http.converter.HttpMessageNotReadableException;
import org.springframework.web.ErrorResponse;

/**
 * An error as an HTTP answer: a status, a JSON object and {@code Retry-After}.
 *
 * @param message can be shown to the user
 * @param code the name of a {@link dev.parley.v1.ErrorReason} without its prefix, or of the status
 * @param retryAfter empty if the wait is not known
 */
public record Refusal(int status, String message, String code, boolean retryable, Optional<Duration> retryAfter) {
    /** For streams that start while the application stops. */
    static final Refusal STOPPING = new Refusal(
            503, "The server restarts. Try again in a moment.", "DRAINING", true, Optional.of(Duration.ofSeconds(1)));

    private static final String NOT_REACHED = "The chat service cannot be reached. Try again in a moment.";
    private static final String FAULT_OF_BACKEND = "The chat service cannot be used at present.";

    /** Returns the refusal of an exception of the client, of Spring, or of the application. */
    public static Refusal of(Throwable error) {
        if (error instanceof RefusedException refused) {
            return refused.refusal();
        } else if (error instanceof ParleyException failed) {
            return of(failed);
        } else if (error instanceof ErrorResponse answer) {
            return of(answer.getStatusCode().value());
        }
        boolean unreadable = error instanceof HttpMessageNotReadableException || error instanceof TypeMismatchException;
        return of(unreadable ? 400 : 500);
    }

    /** Returns the refusal of an HTTP status, with a general sentence. */
    public static Refusal of(int status) {
        return switch (status) {
            case 400 -> of(400, "BAD_REQUEST", "The request cannot be read.");
            case 401 -> of(401, "UNAUTHENTICATED", "Sign in first.");
            case 403 -> of(403, "FORBIDDEN", "This is not allowed.");
            case 404 -> of(404, "NOT_FOUND", "There is nothing here.");
            case 405 -> of(405, "METHOD_NOT_ALLOWED", "This address does not support the method of the request.");
            case 406 -> of(406, "NOT_ACCEPTABLE", "The answer is not available in the requested format.");
            case 409 -> of(409, "CONFLICT", "The request does not fit the current state.");
            case 413 -> of(413, "TOO_LARGE", "The request is too large.");
            case 415 -> of(415, "UNSUPPORTED_MEDIA_TYPE", "The format of the request is not supported.");
            case 502 -> of(502, "BAD_GATEWAY", FAULT_OF_BACKEND);
            case 503 -> new Refusal(503, NOT_REACHED, "UNAVAILABLE", true, Optional.empty());
            case 429 -> new Refusal(429, "There were too many requests. Try again later.", "TOO_MANY_REQUESTS", true, Optional.empty());
            default -> status < 500
                    ? of(status, "BAD_REQUEST", "The request cannot be answered.")
                    : of(status, "INTERNAL", "Something went wrong. Try again later.");
        };
    }

    /** Returns a refusal of the application, which is not retryable. */
    public static Refusal of(int status, String code, String message) {
        return new Refusal(status, message, code, false, Optional.empty());
    }

    private static Refusal of(ParleyException error) {
        boolean ofTransport = error.reason().isEmpty();
        String message = error.failure().message();
        return switch (error.code()) {
            // The credential is this application's: it is not the fault of the browser.
            case UNAUTHENTICATED, PERMISSION_DENIED -> of(502, "BAD_GATEWAY", FAULT_OF_BACKEND);
            case UNAVAILABLE -> {
                String code = ofTransport ? "UNAVAILABLE" : error.reason();
                yield new Refusal(503, ofTransport ? NOT_REACHED : message, code, error.retryable(), error.retryAfter());
            }
            default -> ofTransport
                    ? new Refusal(statusOf(error), FAULT_OF_BACKEND, "BAD_GATEWAY", error.retryable(), error.retryAfter())
                    : new Refusal(statusOf(error), message, error.reason(), error.retryable(), error.retryAfter());
        };
    }

    private static int statusOf(ParleyException error) {
        if (error instanceof InputTooLargeException || error instanceof ContextTooLargeException) {
            return 413;
        }
        return switch (error.code()) {
            case INVALID_ARGUMENT -> 400;
            case NOT_FOUND -> 404;
            case ALREADY_EXISTS -> 409;
            case ABORTED -> error instanceof ReplyFailedException ? 502 : 409;
            case RESOURCE_EXHAUSTED -> 429;
            default -> 502;
        };
    }

    /** The whole seconds of {@code Retry-After}, rounded up, at least 1. */
    public Optional<Long> retryAfterS() {
        return retryAfter.map(wait -> Math.max(1, wait.plusSeconds(1).minusNanos(1).toSeconds()));
    }

    /** The JSON object. {@code error} repeats the message for clients that read this field. */
    public Map<String, Object> body() {
        var body = new LinkedHashMap<String, Object>();
        body.put("message", message);
        body.put("error", message);
        body.put("code", code);
        body.put("retryable", retryable);
        return body;
    }

    public HttpHeaders headers() {
        var headers = new HttpHeaders();
        if (status == 401) {
            headers.set(HttpHeaders.WWW_AUTHENTICATE, "Bearer");
        }
        retryAfterS().ifPresent(seconds -> headers.set(HttpHeaders.RETRY_AFTER, seconds.toString()));
        return headers;
    }

    public ResponseEntity<Map<String, Object>> toResponse() { return toResponse(Map.of()); }

    /** Returns the response with further fields, such as the id of the running reply. */
    public ResponseEntity<Map<String, Object>> toResponse(Map<String, ?> fields) {
        Map<String, Object> body = body();
        body.putAll(fields);
        return ResponseEntity.status(status).headers(headers()).contentType(MediaType.APPLICATION_JSON).body(body);
    }

    /** Returns an exception that {@link RefusalAdvice} answers with this refusal. */
    public RefusedException exception() { return new RefusedException(this); }
}
