package dev.parley.spring.web;

import dev.parley.client.ParleyClient;
import dev.parley.spring.ParleyAutoConfiguration;
import org.springframework.boot.autoconfigure.AutoConfiguration;
import org.springframework.boot.autoconfigure.condition.ConditionalOnBean;
import org.springframework.boot.autoconfigure.condition.ConditionalOnClass;
import org.springframework.boot.autoconfigure.condition.ConditionalOnMissingBean;
import org.springframework.boot.autoconfigure.condition.ConditionalOnWebApplication;
import org.springframework.boot.autoconfigure.condition.ConditionalOnWebApplication.Type;
import org.springframework.context.annotation.Bean;

/** Adds server-sent events to a Spring WebFlux application. */
@AutoConfiguration(after = ParleyAutoConfiguration.class)
@ConditionalOnWebApplication(type = Type.REACTIVE)
@ConditionalOnClass(name = "org.springframework.web.reactive.DispatcherHandler")
@ConditionalOnBean(ParleyClient.class)
public final class ParleyWebFluxAutoConfiguration {

    @Bean
    @ConditionalOnMissingBean
    ReplyFlux replyFlux() { return new ReplyFlux(); }
}
