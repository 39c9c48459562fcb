package dev.parley.spring;

import io.micrometer.core.instrument.MeterRegistry;
import io.micrometer.core.instrument.binder.grpc.MetricCollectingClientInterceptor;
import org.springframework.boot.autoconfigure.AutoConfiguration;
import org.springframework.boot.autoconfigure.condition.ConditionalOnBean;
import org.springframework.boot.autoconfigure.condition.ConditionalOnClass;
import org.springframework.boot.autoconfigure.condition.ConditionalOnMissingBean;
import org.springframework.boot.autoconfigure.condition.ConditionalOnProperty;
import org.springframework.context.annotation.Bean;
import org.springframework.core.Ordered;
import org.springframework.core.annotation.Order;

/**
 * Adds meters to the client if the application has a registry: Micrometer's {@code grpc.client.*} for each attempt of a
 * call, and {@code parley.stream*} for streams.
 */
@AutoConfiguration(
        before = ParleyAutoConfiguration.class,
        afterName = {
            "org.springframework.boot.micrometer.metrics.autoconfigure.CompositeMeterRegistryAutoConfiguration", // Spring Boot 4
            "org.springframework.boot.actuate.autoconfigure.metrics.CompositeMeterRegistryAutoConfiguration" // 3.5
        })
@ConditionalOnClass(name = "io.micrometer.core.instrument.MeterRegistry")
@ConditionalOnBean(MeterRegistry.class)
@ConditionalOnProperty(prefix = "parley", name = "enabled", matchIfMissing = true)
public final class ParleyMetricsAutoConfiguration {

    /** Runs first, so that a customizer of the application can set another observer. */
    @Bean
    @Order(Ordered.HIGHEST_PRECEDENCE)
    @ConditionalOnMissingBean(name = "parleyMetricsCustomizer")
    ParleyClientCustomizer parleyMetricsCustomizer(MeterRegistry registry) {
        return builder -> builder
                .observer(new ParleyMetrics(registry))
                .channel(channel -> channel.intercept(new MetricCollectingClientInterceptor(registry)));
    }
}
