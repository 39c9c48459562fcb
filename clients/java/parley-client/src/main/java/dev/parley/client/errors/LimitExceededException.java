package dev.parley.client.errors;

import java.time.DateTimeException;
import java.time.Instant;
import java.util.Optional;
import java.util.OptionalLong;

/**
 * The caller has reached a limit. {@code retryAfter()} is the wait until there is room, if the server sent it.
 *
 * <p>The numbers count what the limit counts: messages, replies, tokens, or billionths of a US dollar. Each detail is
 * empty if the server did not send it.
 */
public class LimitExceededException extends ParleyException {
    public LimitExceededException(Failure failure) { super(failure); }

    /** The name of the limit, such as "messages_per_minute" or "tenant_tokens_per_day". */
    public String limit() { return metadata().getOrDefault("limit", ""); }

    /** How much of the limit is used. */
    public OptionalLong used() { return number("used"); }

    /** The limit itself. */
    public OptionalLong max() { return number("max"); }

    /** How much more the request needs. */
    public OptionalLong needed() { return number("needed"); }

    /** Whose limit it is: "end_user" or "tenant". */
    public String subject() { return metadata().getOrDefault("subject", ""); }

    /** When the period of the quota ends. */
    public Optional<Instant> resetTime() {
        try {
            return Optional.ofNullable(metadata().get("reset_time")).map(Instant::parse);
        } catch (DateTimeException e) {
            return Optional.empty();
        }
    }

    private OptionalLong number(String name) {
        try {
            return OptionalLong.of(Long.parseLong(metadata().getOrDefault(name, "")));
        } catch (NumberFormatException e) {
            return OptionalLong.empty();
        }
    }
}
