package dev.parley.spring;

import dev.parley.client.ParleyClient;
import org.springframework.boot.autoconfigure.AutoConfiguration;
import org.springframework.boot.autoconfigure.condition.ConditionalOnBean;
import org.springframework.boot.autoconfigure.condition.ConditionalOnClass;
import org.springframework.boot.autoconfigure.condition.ConditionalOnMissingBean;
import org.springframework.boot.health.autoconfigure.contributor.ConditionalOnEnabledHealthIndicator;
import org.springframework.context.annotation.Bean;

/** Adds the health indicator {@code parley}, which needs the health classes of Spring Boot 4. */
@AutoConfiguration(after = ParleyAutoConfiguration.class)
@ConditionalOnClass(
        name = {
            "org.springframework.boot.health.contributor.HealthIndicator",
            "org.springframework.boot.health.autoconfigure.contributor.ConditionalOnEnabledHealthIndicator"
        })
@ConditionalOnBean(ParleyClient.class)
@ConditionalOnEnabledHealthIndicator("parley")
public final class ParleyHealthAutoConfiguration {

    /** Checks the server of the application's client. */
    @Bean
    @ConditionalOnMissingBean(name = "parleyHealthIndicator")
    ParleyHealthIndicator parleyHealthIndicator(ParleyClient client) {
        return new ParleyHealthIndicator(client);
    }
}
