package dev.parley.spring3;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.parley.client.ParleyClient;
import dev.parley.client.testing.Certificate;
import dev.parley.client.testing.ParleyServer;
import dev.parley.client.testing.ScriptedServer;
import dev.parley.v1.Reply;
import io.grpc.TlsServerCredentials;
import io.micrometer.core.instrument.MeterRegistry;
import java.nio.file.Path;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.springframework.boot.Banner;
import org.springframework.boot.SpringBootVersion;
import org.springframework.boot.WebApplicationType;
import org.springframework.boot.actuate.health.HealthEndpoint;
import org.springframework.boot.autoconfigure.EnableAutoConfiguration;
import org.springframework.boot.builder.SpringApplicationBuilder;
import org.springframework.context.ConfigurableApplicationContext;

/** The starter in an application of Spring Boot 3.5, with Actuator. */
class SpringBoot3Test {
    @EnableAutoConfiguration
    static class Application {}

    private static ConfigurableApplicationContext run(String... properties) {
        return new SpringApplicationBuilder(Application.class)
                .web(WebApplicationType.NONE)
                .bannerMode(Banner.Mode.OFF)
                .properties("management.endpoint.health.show-details=always")
                .properties(properties)
                .run();
    }

    @Test
    void itRunsOnSpringBoot35() throws Exception {
        assertThat(SpringBootVersion.getVersion()).startsWith("3.5.");
        assertThatThrownBy(() -> Class.forName("org.springframework.boot.health.contributor.HealthIndicator"))
                .isInstanceOf(ClassNotFoundException.class);
        try (var server = ParleyServer.start();
                var context = run("parley.address=" + server.address(), "parley.backoff.max-elapsed=8s")) {
            var client = context.getBean(ParleyClient.class);
            client.streamReply("/script {\"text\": \"one two\", \"delay_s\": 0}").forEachRemaining(event -> {});
            MeterRegistry meters = context.getBean(MeterRegistry.class);
            assertThat(meters.get("parley.stream").tag("outcome", "STOP").timer().count()).isEqualTo(1);
            assertThat(callsOfStreamReply(meters)).isEqualTo(1);
        }
    }

    /** gRPC records a call when its status arrives, possibly after the last event: waits up to 10 s. */
    private static long callsOfStreamReply(MeterRegistry meters) throws InterruptedException {
        long end = System.nanoTime() + TimeUnit.SECONDS.toNanos(10);
        while (true) {
            var timer = meters.find("grpc.client.processing.duration").tag("method", "StreamReply").timer();
            if (timer != null && timer.count() > 0 || System.nanoTime() - end > 0) {
                return timer == null ? 0 : timer.count();
            }
            TimeUnit.MILLISECONDS.sleep(20);
        }
    }

    @Test
    void itAddsNoHealthIndicatorOnSpringBoot35() {
        try (var context = run()) {
            assertThat(context.getBean(HealthEndpoint.class).health().getStatus().getCode()).isEqualTo("UP");
            assertThat(context.containsBean("parleyHealthIndicator")).isFalse();
        }
    }

    @Test
    void anSslBundleOfTheApplicationIsTrusted(@TempDir Path folder) throws Exception {
        Certificate certificate = Certificate.create(folder);
        try (var server = new ScriptedServer(
                TlsServerCredentials.newBuilder().keyManager(certificate.keyManagers()).build())) {
            server.answer("GetReply", Reply.newBuilder().setId("r").build());
            try (var context = run("parley.address=" + server.address(), "parley.tls.bundle=parley",
                    "spring.ssl.bundle.jks.parley.truststore.location=file:" + certificate.keyStore(),
                    "spring.ssl.bundle.jks.parley.truststore.password=" + certificate.password())) {
                assertThat(context.getBean(ParleyClient.class).getReply("r").getId()).isEqualTo("r");
            }
        }
    }

    @Test
    void itCanBeDisabled() {
        try (var context = run("parley.enabled=false")) {
            assertThat(context.getBeansOfType(ParleyClient.class)).isEmpty();
        }
    }
}
