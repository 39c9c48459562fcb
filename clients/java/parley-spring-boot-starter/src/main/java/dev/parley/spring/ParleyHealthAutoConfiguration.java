package dev.parley.spring;

import dev.parley.client.ParleyClient;
import org.springframework.boot.autoconfigure.AutoConfiguration;
import org.springframework.boot.autoconfigure.condition.ConditionalOnBean;
import org.springframework.boot.autoconfigure.condition.ConditionalOnClass;
import org.springframework.boot.autoconfigure.condition.ConditionalOnMissingBean;
import org.springframework.boot.health.autoconfigure.contributor.ConditionalOnEnabledHealthIndicator;
import org.springframework.context.annotation.Bean;

/** Shows the server's health as {@code parley}, where the application has the health of Spring Boot 4; 3.5 has another. */
@AutoConfiguration(after = ParleyAutoConfiguration.class)
@ConditionalOnClass(
        name = {
            "org.springframework.boot.health.contributor.HealthIndicator",
            "org.springframework.boot.health.autoconfigure.contributor.ConditionalOnEnabledHealthIndicator"
        })
@ConditionalOnBean(ParleyClient.class)
@ConditionalOnEnabledHealthIndicator("parley")
public final class ParleyHealthAutoConfiguration {

    /** Asks the server of the application's client. */
    @Bean
    @ConditionalOnMissingBean(name = "parleyHealthIndicator")
    ParleyHealthIndicator parleyHealthIndicator(ParleyClient client) {
        return new ParleyHealthIndicator(client);
    }
}
