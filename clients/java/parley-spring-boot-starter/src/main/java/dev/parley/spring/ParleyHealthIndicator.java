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

/** UP while the server says, by gRPC's own health service, that it takes chats; asked once, without patience. */
public final class ParleyHealthIndicator extends AbstractHealthIndicator {
    private static final HealthCheckRequest CHAT = HealthCheckRequest.newBuilder().setService("parley.v1.Chat").build();
    private static final Duration LIMIT = Duration.ofSeconds(2);

    private final HealthGrpc.HealthBlockingStub server;

    public ParleyHealthIndicator(ParleyClient client) {
        super("the Parley server could not be asked");
        this.server = HealthGrpc.newBlockingStub(client.channel());
    }

    @Override
    protected void doHealthCheck(Health.Builder builder) {
        try {
            ServingStatus said = server.withWaitForReady()
                    .withDeadlineAfter(LIMIT.toMillis(), TimeUnit.MILLISECONDS)
                    .check(CHAT)
                    .getStatus();
            builder.status(said == ServingStatus.SERVING ? "UP" : "OUT_OF_SERVICE").withDetail("server", said.name());
        } catch (StatusRuntimeException status) {
            builder.down().withDetail("server", status.getStatus().getCode().name());
        }
    }
}
