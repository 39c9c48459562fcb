package dev.parley.spring.web;

import dev.parley.client.ParleyClient;
import dev.parley.client.ReplyEvent.Finished;
import dev.parley.client.ReplyEvent.Text;
import dev.parley.client.ReplyStream;
import dev.parley.v1.ReplyRequest;
import java.time.Duration;
import java.util.Map;
import org.springframework.boot.Banner;
import org.springframework.boot.SpringBootConfiguration;
import org.springframework.boot.WebApplicationType;
import org.springframework.boot.autoconfigure.EnableAutoConfiguration;
import org.springframework.boot.builder.SpringApplicationBuilder;
import org.springframework.context.ConfigurableApplicationContext;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Import;
import org.springframework.http.ResponseEntity;
import org.springframework.util.unit.DataSize;
import org.springframework.web.bind.annotation.PostMapping;
import org.springframework.web.bind.annotation.RequestBody;
import org.springframework.web.bind.annotation.RestController;
import org.springframework.web.bind.annotation.RestControllerAdvice;
import org.springframework.web.servlet.mvc.method.annotation.SseEmitter;

/** An application of Spring MVC on Tomcat. The header X-User names the user. */
@SpringBootConfiguration
@EnableAutoConfiguration
@Import({ChatApplication.Chat.class, ChatApplication.Refusals.class})
class ChatApplication {
    static final int MAX_BYTES = 100_000;

    static ConfigurableApplicationContext run(String parley, String... properties) {
        return new SpringApplicationBuilder(ChatApplication.class)
                .web(WebApplicationType.SERVLET)
                .bannerMode(Banner.Mode.OFF)
                .properties("server.port=0", "logging.level.root=warn", "parley.address=" + parley)
                .properties(properties)
                .run();
    }

    static int port(ConfigurableApplicationContext context) {
        return context.getEnvironment().getRequiredProperty("local.server.port", Integer.class);
    }

    @Bean
    ReplySse replySse() { return new ReplySse(Duration.ofMillis(100)); }

    @Bean
    BodyLimit bodyLimit() { return new BodyLimit(DataSize.ofBytes(MAX_BYTES)); }

    @Bean
    PageSettings pageSettings() {
        return PageSettings.of("tasks")
                .withTitle("Scenes")
                .withEndUser(request -> request.getHeader("X-User"))
                .withReplySettings(request -> ReplyRequest.newBuilder().putLabels("by", "retry").build())
                .withFiles(java.nio.file.Path.of(System.getProperty("java.io.tmpdir"), "parley-page-of-tests"));
    }

    /** Events that cannot replace text. */
    static final class ProductEvents implements ReplyMapping {
        @Override
        public Object text(Text event, ReplyStream stream) { return Map.of("text", event.text()); }

        @Override
        public Object finished(Finished event, ReplyStream stream) { return Map.of("done", event.reason()); }

        @Override
        public Object failed(Refusal error, RuntimeException cause, ReplyStream stream) { return Map.of("error", error.code()); }
    }

    @RestController
    static class Chat {
        private final ParleyClient client;
        private final ReplySse sse;

        Chat(ParleyClient client, ReplySse sse) {
            this.client = client;
            this.sse = sse;
        }

        /** The events of the product's own wire. */
        @PostMapping("/chat")
        ResponseEntity<SseEmitter> chat(@RequestBody Map<String, String> body) {
            return sse.send(client.streamReply(body.get("text")), new ProductEvents());
        }

        /** The events of the page. */
        @PostMapping("/ask")
        ResponseEntity<SseEmitter> ask(@RequestBody Map<String, String> body) {
            return sse.send(client.streamReply(body.get("text")), new PageEvents());
        }

        @PostMapping("/defect")
        void defect() { throw new IllegalStateException("secret detail"); }
    }

    @RestControllerAdvice
    static class Refusals extends RefusalAdvice {}
}
