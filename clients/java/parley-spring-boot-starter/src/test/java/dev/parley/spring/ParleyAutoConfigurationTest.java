package dev.parley.spring;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.jayway.jsonpath.JsonPath;
import dev.parley.client.Backoff;
import dev.parley.client.ParleyClient;
import dev.parley.client.ParleyClientBuilder;
import dev.parley.client.errors.CredentialFailedException;
import dev.parley.client.errors.UnavailableException;
import dev.parley.client.testing.Certificate;
import dev.parley.client.testing.ParleyServer;
import dev.parley.client.testing.ScriptedServer;
import dev.parley.v1.Reply;
import io.grpc.TlsServerCredentials;
import io.micrometer.core.instrument.MeterRegistry;
import io.micrometer.core.instrument.simple.SimpleMeterRegistry;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.time.Duration;
import java.util.List;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicReference;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.springframework.boot.autoconfigure.AutoConfigurations;
import org.springframework.boot.autoconfigure.ssl.SslAutoConfiguration;
import org.springframework.boot.health.contributor.Health;
import org.springframework.boot.health.contributor.HealthIndicator;
import org.springframework.boot.health.contributor.Status;
import org.springframework.boot.test.context.runner.ApplicationContextRunner;

/** The starter in small applications, against a real server. */
class ParleyAutoConfigurationTest {
    static ParleyServer server;

    private final ApplicationContextRunner application = new ApplicationContextRunner()
            .withConfiguration(AutoConfigurations.of(ParleyMetricsAutoConfiguration.class,
                    ParleyAutoConfiguration.class, ParleyHealthAutoConfiguration.class))
            .withPropertyValues("parley.address=" + server.address());

    @BeforeAll
    static void start() { server = ParleyServer.start(); }

    @AfterAll
    static void stop() { server.close(); }

    @Test
    void theClientIsCreatedAndClosedWithTheApplication() {
        var kept = new AtomicReference<ParleyClient>();
        application.run(context -> {
            kept.set(context.getBean(ParleyClient.class));
            assertThat(kept.get().models()).isNotEmpty();
        });
        assertThatThrownBy(() -> kept.get().models()).isInstanceOf(UnavailableException.class).hasMessage("the client is closed");
    }

    @Test
    void everyPropertyHasItsEffect() {
        application
                .withPropertyValues("parley.api-key=secret", "parley.end-user=ada", "parley.call-timeout=3s",
                        "parley.silence=4s", "parley.attempt-timeout=5s", "parley.backoff.first=6ms",
                        "parley.backoff.max=7s", "parley.backoff.max-elapsed=8s")
                .run(context -> {
                    var properties = context.getBean(ParleyProperties.class);
                    assertThat(properties.apiKey()).isEqualTo("secret");
                    assertThat(properties.toString()).doesNotContain("secret");
                    assertThat(properties.endUser()).isEqualTo("ada");
                    assertThat(properties.callTimeout()).isEqualTo(Duration.ofSeconds(3));
                    assertThat(properties.silence()).isEqualTo(Duration.ofSeconds(4));
                    assertThat(properties.attemptTimeout()).isEqualTo(Duration.ofSeconds(5));
                    assertThat(properties.backoff()).isEqualTo(new ParleyProperties.Backoff(
                            Duration.ofMillis(6), Duration.ofSeconds(7), Duration.ofSeconds(8)));
                });
        application.withPropertyValues("parley.end-user=Zoë").run(context -> assertThat(context).hasFailed());
        application.withPropertyValues("parley.silence=0s").run(context -> assertThat(context).hasFailed());
        application.withPropertyValues("parley.backoff.first=9s").run(context -> assertThat(context).hasFailed());
    }

    @Test
    void tlsIsEnabledByItsProperty() {
        application.withPropertyValues("parley.tls.enabled=true", "parley.backoff.max-elapsed=0s").run(context ->
                assertThatThrownBy(() -> context.getBean(ParleyClient.class).models()).isInstanceOf(UnavailableException.class));
    }

    @Test
    void anSslBundleOfTheApplicationIsTrusted(@TempDir Path folder) throws Exception {
        Certificate certificate = Certificate.create(folder);
        try (var tlsServer = new ScriptedServer(
                TlsServerCredentials.newBuilder().keyManager(certificate.keyManagers()).build())) {
            tlsServer.answer("GetReply", Reply.newBuilder().setId("r").build());
            application
                    .withConfiguration(AutoConfigurations.of(SslAutoConfiguration.class))
                    .withPropertyValues("parley.address=" + tlsServer.address(), "parley.tls.bundle=parley",
                            "spring.ssl.bundle.jks.parley.truststore.location=file:" + certificate.keyStore(),
                            "spring.ssl.bundle.jks.parley.truststore.password=" + certificate.password())
                    .run(context -> assertThat(context.getBean(ParleyClient.class).getReply("r").getId()).isEqualTo("r"));
        }
    }

    @Test
    void aClientBeanOfTheApplicationIsUsed() {
        ParleyClient own = ParleyClient.builder(server.address()).build();
        application.withBean("own", ParleyClient.class, () -> own).run(context -> {
            assertThat(context).hasSingleBean(ParleyClient.class);
            assertThat(context.getBean(ParleyClient.class)).isSameAs(own);
            assertThat(context).hasSingleBean(ParleyHealthIndicator.class);
        });
    }

    @Test
    void itCanBeDisabled() {
        application.withBean(SimpleMeterRegistry.class).withPropertyValues("parley.enabled=false").run(context -> assertThat(context)
                .doesNotHaveBean(ParleyClient.class)
                .doesNotHaveBean(ParleyHealthIndicator.class)
                .doesNotHaveBean(ParleyClientCustomizer.class));
        application.withPropertyValues("management.health.parley.enabled=false").run(context -> assertThat(context)
                .hasSingleBean(ParleyClient.class)
                .doesNotHaveBean(ParleyHealthIndicator.class));
    }

    @Test
    void customizersAreApplied() {
        var seen = new AtomicReference<ParleyClientBuilder>();
        application.withBean(ParleyClientCustomizer.class, () -> seen::set).run(context -> {
            assertThat(context).hasSingleBean(ParleyClient.class);
            assertThat(seen.get()).isNotNull();
        });
    }

    @Test
    void aCustomizerCanRenewTheCredential() {
        ParleyClientCustomizer renews = builder -> builder.apiKey(() -> {
            throw new IllegalStateException("the token endpoint is away");
        });
        application.withPropertyValues("parley.api-key=secret").withBean(ParleyClientCustomizer.class, () -> renews).run(context ->
                assertThatThrownBy(() -> context.getBean(ParleyClient.class).models())
                        .isInstanceOf(CredentialFailedException.class)
                        .hasCauseInstanceOf(IllegalStateException.class));
    }

    @Test
    void healthFollowsTheServer() throws Exception {
        try (ParleyServer mortal = ParleyServer.start()) {
            application.withPropertyValues("parley.address=" + mortal.address()).run(context -> {
                HealthIndicator health = context.getBean(ParleyHealthIndicator.class);
                assertThat(health.health()).isEqualTo(Health.up().withDetail("server", "SERVING").build());
                mortal.kill();
                assertThat(health.health().getStatus()).isEqualTo(Status.DOWN);
            });
        }
    }

    @Test
    void callsAndStreamsHaveMeters() {
        application.withBean(SimpleMeterRegistry.class).run(context -> {
            ParleyClient client = context.getBean(ParleyClient.class);
            MeterRegistry meters = context.getBean(MeterRegistry.class);
            client.models();
            client.streamReply("/script {\"text\": \"one two\", \"delay_s\": 0}").forEachRemaining(event -> {});
            assertThat(meters.get("grpc.client.processing.duration").tag("method", "ListModels").timer().count()).isEqualTo(1);
            assertThat(meters.get("parley.stream").tag("outcome", "STOP").timer().count()).isEqualTo(1);
            assertThat(meters.get("parley.stream.first.text").timer().count()).isEqualTo(1);
            assertThat(meters.get("parley.stream.first.text").timer().max(TimeUnit.NANOSECONDS)).isPositive();
        });
    }

    @Test
    void everyPropertyHasADescription() throws Exception {
        try (var metadata = getClass().getResourceAsStream("/META-INF/spring-configuration-metadata.json")) {
            String text = new String(metadata.readAllBytes(), StandardCharsets.UTF_8);
            List<String> named = JsonPath.read(text, "$.properties[*].name");
            assertThat(named).contains("parley.address", "parley.backoff.max-elapsed", "parley.tls.bundle").hasSize(12);
            List<String> undescribed = JsonPath.read(text, "$.properties[?(!@.description)].name");
            assertThat(undescribed).isEmpty();
        }
    }

    @Test
    void theDefaultsEqualThoseOfTheClient() {
        new ApplicationContextRunner().withConfiguration(AutoConfigurations.of(ParleyAutoConfiguration.class)).run(context -> {
            var backoff = context.getBean(ParleyProperties.class).backoff();
            assertThat(new Backoff(backoff.first(), backoff.max(), backoff.maxElapsed())).isEqualTo(Backoff.DEFAULT);
        });
    }
}
