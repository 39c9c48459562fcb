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

    /** Runs listeners on Spring's threads (virtual ones, if configured), since sending to a slow browser blocks. */
    @Bean
    ParleyClientCustomizer listenOnSpringsThreads(AsyncTaskExecutor applicationTaskExecutor) {
        return builder -> builder.executor(applicationTaskExecutor);
    }
}
