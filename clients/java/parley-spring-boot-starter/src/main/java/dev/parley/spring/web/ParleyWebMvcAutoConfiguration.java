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
import org.springframework.context.annotation.Configuration;
import org.springframework.web.servlet.function.RouterFunction;
import org.springframework.web.servlet.function.ServerResponse;

/** Adds server-sent events to a Spring MVC application, and the page routes if it has {@link PageSettings}. */
@AutoConfiguration(after = ParleyAutoConfiguration.class)
@ConditionalOnWebApplication(type = Type.SERVLET)
@ConditionalOnClass(name = "org.springframework.web.servlet.mvc.method.annotation.SseEmitter")
@ConditionalOnBean(ParleyClient.class)
public final class ParleyWebMvcAutoConfiguration {

    @Bean
    @ConditionalOnMissingBean
    ReplySse replySse() { return new ReplySse(); }

    @Configuration(proxyBeanMethods = false)
    @ConditionalOnBean(PageSettings.class)
    static class Page {
        @Bean
        PageController parleyPageController(ParleyClient client, ReplySse sse, PageSettings settings) {
            return new PageController(client, sse, settings);
        }

        @Bean
        RouterFunction<ServerResponse> parleyPageFiles(PageSettings settings) { return PageFiles.routes(settings.files()); }
    }
}
