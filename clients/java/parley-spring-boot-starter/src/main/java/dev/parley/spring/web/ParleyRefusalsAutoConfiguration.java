package dev.parley.spring.web;

import org.apache.catalina.core.StandardHost;
import org.springframework.boot.autoconfigure.AutoConfiguration;
import org.springframework.boot.autoconfigure.condition.ConditionalOnBean;
import org.springframework.boot.autoconfigure.condition.ConditionalOnClass;
import org.springframework.boot.autoconfigure.condition.ConditionalOnMissingBean;
import org.springframework.boot.autoconfigure.condition.ConditionalOnWebApplication;
import org.springframework.boot.autoconfigure.condition.ConditionalOnWebApplication.Type;
import org.springframework.boot.tomcat.servlet.TomcatServletWebServerFactory;
import org.springframework.boot.web.server.WebServerFactoryCustomizer;
import org.springframework.boot.webmvc.error.ErrorController;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;

/**
 * Answers the requests that filters and Tomcat refuse, before they reach Spring MVC, with the JSON of a {@link Refusal}.
 * Needs the classes of Spring Boot 4, and {@link PageSettings}.
 */
@AutoConfiguration(beforeName = "org.springframework.boot.webmvc.autoconfigure.error.ErrorMvcAutoConfiguration")
@ConditionalOnWebApplication(type = Type.SERVLET)
@ConditionalOnBean(PageSettings.class)
public final class ParleyRefusalsAutoConfiguration {

    @Configuration(proxyBeanMethods = false)
    @ConditionalOnClass(name = "org.springframework.boot.webmvc.error.ErrorController")
    static class Filters {
        @Bean
        @ConditionalOnMissingBean(ErrorController.class)
        RefusalController parleyRefusalController() { return new RefusalController(); }
    }

    @Configuration(proxyBeanMethods = false)
    @ConditionalOnClass(name = "org.springframework.boot.tomcat.servlet.TomcatServletWebServerFactory")
    static class Tomcat {
        @Bean
        WebServerFactoryCustomizer<TomcatServletWebServerFactory> parleyRefusalsOfTomcat() {
            return server -> server.addContextCustomizers(
                    context -> ((StandardHost) context.getParent()).setErrorReportValveClass(RefusalValve.class.getName()));
        }
    }
}
