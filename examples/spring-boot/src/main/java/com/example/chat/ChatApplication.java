package com.example.chat;

import dev.parley.spring.web.BodyLimit;
import dev.parley.spring.web.PageSettings;
import java.nio.file.Path;
import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.SpringBootApplication;
import org.springframework.boot.context.event.ApplicationReadyEvent;
import org.springframework.boot.context.properties.EnableConfigurationProperties;
import org.springframework.context.annotation.Bean;
import org.springframework.context.event.EventListener;
import org.springframework.util.unit.DataSize;

@SpringBootApplication
@EnableConfigurationProperties(ChatProperties.class)
public class ChatApplication {
    private static final DataSize MAX_BODY = DataSize.ofMegabytes(1);

    public static void main(String[] arguments) { SpringApplication.run(ChatApplication.class, arguments); }

    /** Adds the routes of the page and serves it. */
    @Bean
    PageSettings page(ChatProperties chat, Scenarios scenarios) {
        return PageSettings.of("tasks")
                .withTitle("Scenes")
                .withLogin(chat.demoLogin() ? "demo" : "token")
                .withReplySettings(request -> scenarios.reply())
                .withFiles(Path.of(chat.page()));
    }

    @Bean
    BodyLimit bodyLimit() { return new BodyLimit(MAX_BODY); }

    @EventListener
    void ready(ApplicationReadyEvent event) {
        String port = event.getApplicationContext().getEnvironment().getProperty("local.server.port");
        System.out.println("The chat is on http://127.0.0.1:" + port);
    }
}
