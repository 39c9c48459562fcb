package dev.parley.spring;

import dev.parley.client.ParleyClient;
import io.grpc.StatusRuntimeException;
import io.grpc.health.v1.HealthCheckRequest;
import io.grpc.health.v1.HealthCheckResponse.ServingStatus;
import io.grpc.health.v1.HealthGrpc;
import java.time.Duration;
import java.util.concurrent.TimeUnit;
import org.springframework.boot.health.contributor.AbstractHealthIndicator;
import org.springframework.boot.health.contributor.Health;

/** Reports UP while the server's gRPC health service reports SERVING for {@code parley.v1.Chat}. It does not retry. */
public final class ParleyHealthIndicator extends AbstractHealthIndicator {
    private static final HealthCheckRequest CHAT = HealthCheckRequest.newBuilder().setService("parley.v1.Chat").build();
    private static final Duration LIMIT = Duration.ofSeconds(2);

    private final HealthGrpc.HealthBlockingStub server;

    public ParleyHealthIndicator(ParleyClient client) {
        super("the health check of the Parley server failed");
        this.server = HealthGrpc.newBlockingStub(client.channel());
    }

    @Override
    protected void doHealthCheck(Health.Builder builder) {
        try {
            ServingStatus status = server.withWaitForReady()
                    .withDeadlineAfter(LIMIT.toMillis(), TimeUnit.MILLISECONDS)
                    .check(CHAT)
                    .getStatus();
            builder.status(status == ServingStatus.SERVING ? "UP" : "OUT_OF_SERVICE").withDetail("server", status.name());
        } catch (StatusRuntimeException failure) {
            builder.down().withDetail("server", failure.getStatus().getCode().name());
        }
    }
}
