package dev.parley.spring;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.parley.client.ParleyClient;
import org.junit.jupiter.api.Test;
import org.springframework.boot.Banner;
import org.springframework.boot.WebApplicationType;
import org.springframework.boot.autoconfigure.EnableAutoConfiguration;
import org.springframework.boot.builder.SpringApplicationBuilder;

/** An application without Actuator, Micrometer and a web framework. The build runs it with a class path without them. */
class BareApplication {
    @EnableAutoConfiguration
    static class Application {}

    @Test
    void hasOnlyAClient() {
        assertThatThrownBy(() -> Class.forName("org.springframework.boot.health.contributor.HealthIndicator"))
                .isInstanceOf(ClassNotFoundException.class);
        assertThatThrownBy(() -> Class.forName("io.micrometer.core.instrument.MeterRegistry"))
                .isInstanceOf(ClassNotFoundException.class);
        assertThatThrownBy(() -> Class.forName("org.springframework.web.ErrorResponse"))
                .isInstanceOf(ClassNotFoundException.class);
        try (var context = new SpringApplicationBuilder(Application.class)
                .web(WebApplicationType.NONE).bannerMode(Banner.Mode.OFF).run()) {
            assertThat(context.getBeansOfType(ParleyClient.class)).hasSize(1);
            assertThat(context.getBeansOfType(ParleyClientCustomizer.class)).isEmpty();
        }
    }
}
