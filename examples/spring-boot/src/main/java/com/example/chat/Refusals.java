package com.example.chat;

import dev.parley.client.errors.ReplyInProgressException;
import dev.parley.spring.web.Refusal;
import dev.parley.spring.web.RefusalAdvice;
import dev.parley.spring.web.RefusalValve;
import jakarta.servlet.RequestDispatcher;
import jakarta.servlet.http.HttpServletRequest;
import java.util.Map;
import org.apache.catalina.core.StandardHost;
import org.springframework.boot.tomcat.servlet.TomcatServletWebServerFactory;
import org.springframework.boot.web.server.WebServerFactoryCustomizer;
import org.springframework.boot.webmvc.error.ErrorController;
import org.springframework.context.annotation.Bean;
import org.springframework.http.ResponseEntity;
import org.springframework.web.bind.annotation.RequestMapping;
import org.springframework.web.bind.annotation.RestController;
import org.springframework.web.bind.annotation.RestControllerAdvice;

/** All errors have the same JSON; that of a second message also names the task that runs. */
@RestControllerAdvice
class Refusals extends RefusalAdvice {
    @Override
    protected Map<String, ?> details(Exception error) {
        return error instanceof ReplyInProgressException busy ? Map.of("task_id", busy.replyId()) : Map.of();
    }

    /** Requests that Tomcat refuses. */
    @Bean
    static WebServerFactoryCustomizer<TomcatServletWebServerFactory> refusalsOfTomcat() {
        return server -> server.addContextCustomizers(
                context -> ((StandardHost) context.getParent()).setErrorReportValveClass(RefusalValve.class.getName()));
    }

    /** Requests that are refused before they reach Spring MVC. */
    @RestController
    static class BeforeRoutes implements ErrorController {
        @RequestMapping("/error")
        ResponseEntity<Map<String, Object>> answer(HttpServletRequest request) {
            Object status = request.getAttribute(RequestDispatcher.ERROR_STATUS_CODE);
            return Refusal.of(status instanceof Integer known ? known : 404).toResponse();
        }
    }
}
