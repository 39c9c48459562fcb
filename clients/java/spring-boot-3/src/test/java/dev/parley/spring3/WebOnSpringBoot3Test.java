package dev.parley.spring3;

import static org.assertj.core.api.Assertions.assertThat;

import dev.parley.client.ParleyClient;
import dev.parley.client.testing.Browser;
import dev.parley.client.testing.Chunks;
import dev.parley.client.testing.ParleyServer;
import dev.parley.client.testing.ScriptedServer;
import dev.parley.client.testing.ScriptedServer.Await;
import dev.parley.spring.web.BodyLimit;
import dev.parley.spring.web.PageEvents;
import dev.parley.spring.web.PageSettings;
import dev.parley.spring.web.Refusal;
import dev.parley.spring.web.RefusalAdvice;
import dev.parley.spring.web.ReplyFlux;
import dev.parley.spring.web.ReplySse;
import java.nio.file.Path;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.springframework.boot.Banner;
import org.springframework.boot.WebApplicationType;
import org.springframework.boot.autoconfigure.EnableAutoConfiguration;
import org.springframework.boot.builder.SpringApplicationBuilder;
import org.springframework.boot.web.embedded.netty.NettyReactiveWebServerFactory;
import org.springframework.context.ConfigurableApplicationContext;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Import;
import org.springframework.http.ResponseEntity;
import org.springframework.http.codec.ServerSentEvent;
import org.springframework.util.unit.DataSize;
import org.springframework.web.bind.annotation.ExceptionHandler;
import org.springframework.web.bind.annotation.PostMapping;
import org.springframework.web.bind.annotation.RequestBody;
import org.springframework.web.bind.annotation.RestController;
import org.springframework.web.bind.annotation.RestControllerAdvice;
import org.springframework.web.servlet.mvc.method.annotation.SseEmitter;
import reactor.core.publisher.Flux;
import reactor.core.publisher.Mono;

/** The web adapters, as they are built for Spring 7, in applications of Spring Boot 3.5. */
@Timeout(60)
class WebOnSpringBoot3Test {
    @EnableAutoConfiguration
    @Import({Chat.class, Refusals.class})
    static class Mvc {
        @Bean
        PageSettings pageSettings() {
            return PageSettings.of("tasks").withEndUser(request -> "ada").withFiles(Path.of("none"));
        }

        @Bean
        BodyLimit bodyLimit() { return new BodyLimit(DataSize.ofBytes(100)); }
    }

    @RestController
    static class Chat {
        private final ParleyClient client;
        private final ReplySse sse;

        Chat(ParleyClient client, ReplySse sse) {
            this.client = client;
            this.sse = sse;
        }

        @PostMapping("/chat")
        ResponseEntity<SseEmitter> chat(@RequestBody Map<String, String> body) {
            return sse.send(client.streamReply(body.get("text")), new PageEvents());
        }
    }

    @RestControllerAdvice
    static class Refusals extends RefusalAdvice {}

    @EnableAutoConfiguration
    @Import({ReactiveChat.class, ReactiveRefusals.class})
    static class Reactive {
        /** Beside Tomcat on the class path, Spring Boot would choose Tomcat, which detects a closed connection only when it writes. */
        @Bean
        NettyReactiveWebServerFactory netty() { return new NettyReactiveWebServerFactory(); }
    }

    @RestController
    static class ReactiveChat {
        private final ParleyClient client;
        private final ReplyFlux flux;

        ReactiveChat(ParleyClient client, ReplyFlux flux) {
            this.client = client;
            this.flux = flux;
        }

        @PostMapping("/chat")
        Mono<ResponseEntity<Flux<ServerSentEvent<Object>>>> chat(@RequestBody Map<String, String> body) {
            return flux.send(client.streamReply(body.get("text")), new PageEvents());
        }
    }

    @RestControllerAdvice
    static class ReactiveRefusals {
        @ExceptionHandler
        ResponseEntity<Map<String, Object>> refuse(Exception error) { return Refusal.of(error).toResponse(); }
    }

    private static ConfigurableApplicationContext run(Class<?> application, WebApplicationType type, String parley) {
        return new SpringApplicationBuilder(application)
                .web(type)
                .bannerMode(Banner.Mode.OFF)
                .properties("server.port=0", "logging.level.root=warn", "parley.address=" + parley)
                .run();
    }

    private static Browser browser(ConfigurableApplicationContext context) {
        return new Browser(context.getEnvironment().getRequiredProperty("local.server.port", Integer.class));
    }

    @Test
    void repliesRefusalsAndPageRoutesOfSpringMvc() throws Exception {
        try (var parley = ParleyServer.start(); var context = run(Mvc.class, WebApplicationType.SERVLET, parley.address())) {
            Browser browser = browser(context);
            try (var events = browser.open("POST", "/chat", "{\"text\": \"/script {\\\"text\\\": \\\"one\\\", \\\"delay_s\\\": 0}\"}")) {
                var all = events.rest();
                assertThat(all.get(0)).contains("\"type\":\"reply\"");
                assertThat(all.get(1)).contains("\"text\":\"one\"");
                assertThat(all.get(2)).contains("\"type\":\"finished\"");
            }
            assertThat(browser.get("/api/page/conversations").body()).contains("\"conversations\":[]");
            assertThat(browser.get("/api/page/conversations/none").statusCode()).isEqualTo(404);
            assertThat(browser.post("/chat", "{").body()).contains("BAD_REQUEST");
            assertThat(browser.post("/chat", "{\"text\": \"" + "a".repeat(100) + "\"}").statusCode()).isEqualTo(413);
            assertThat(browser.get("/c/scene-1").body()).contains("npm run build");
        }
    }

    @Test
    void repliesAndRefusalsOfSpringWebFlux() throws Exception {
        try (var parley = new ScriptedServer(); var context = run(Reactive.class, WebApplicationType.REACTIVE, parley.address())) {
            parley.script(Chunks.accepted(0), Chunks.text(1, "one"), new Await(new CountDownLatch(1)));
            try (var events = browser(context).open("POST", "/chat", "{\"text\": \"Hi\"}")) {
                assertThat(events.next()).contains("\"type\":\"reply\"");
                assertThat(events.next()).contains("\"text\":\"one\"");
            }
            assertThat(parley.calls.get(0).cancelled.await(20, TimeUnit.SECONDS)).isTrue();
            assertThat(browser(context).post("/chat", "{").body()).contains("BAD_REQUEST");
        }
    }
}
