package dev.parley.spring.web;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import org.apache.catalina.connector.Request;
import org.apache.catalina.connector.Response;
import org.apache.catalina.valves.ErrorReportValve;

/**
 * Answers the requests that Tomcat itself refuses, such as one with an address that is not valid, with the JSON of a
 * {@link Refusal} instead of HTML. Tomcat makes it by the name of its class.
 */
public final class RefusalValve extends ErrorReportValve {
    private static final int FIRST_ERROR = 400;

    @Override
    protected void report(Request request, Response response, Throwable error) {
        boolean answered = response.getStatus() < FIRST_ERROR || response.getContentWritten() > 0 || !response.setErrorReported();
        if (answered) {
            return;
        }
        Refusal refusal = Refusal.of(response.getStatus());
        // The sentences of a status have no character that JSON escapes.
        String json = "{\"message\":\"%1$s\",\"error\":\"%1$s\",\"code\":\"%2$s\",\"retryable\":%3$s}"
                .formatted(refusal.message(), refusal.code(), refusal.retryable());
        try {
            response.setContentType("application/json");
            response.getOutputStream().write(json.getBytes(StandardCharsets.UTF_8));
            response.finishResponse();
        } catch (IOException | IllegalStateException gone) {
            container.getLogger().debug("the answer of a refused request was not sent", gone);
        }
    }
}
