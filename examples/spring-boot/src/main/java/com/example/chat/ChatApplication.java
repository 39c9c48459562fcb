package com.example.chat;

import dev.parley.spring.ParleyClientCustomizer;
import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.SpringBootApplication;
import org.springframework.context.annotation.Bean;
import org.springframework.core.task.AsyncTaskExecutor;
import org.springframework.scheduling.annotation.EnableScheduling;

@SpringBootApplication
@EnableScheduling
public class ChatApplication {
    public static void main(String[] arguments) { SpringApplication.run(ChatApplication.class, arguments); }

    /** To send to a browser that reads slowly blocks: Spring's threads then (virtual ones, if so set), not the client's. */
    @Bean
    ParleyClientCustomizer listenOnSpringsThreads(AsyncTaskExecutor applicationTaskExecutor) {
        return builder -> builder.executor(applicationTaskExecutor);
    }
}
