package com.example.chat;

import java.time.Duration;
import java.util.Map;
import org.springframework.boot.context.properties.ConfigurationProperties;

/** The settings of application.yml. */
@ConfigurationProperties("chat")
record ChatProperties(
        String jwtKey, boolean demoLogin, String page, String model, Duration taskTtl, Map<String, Scenario> scenarios) {

    /** Who answers, and the reminder of it that is repeated in long conversations. */
    record Scenario(String system, String reminder) {}

    /** Without the key. */
    @Override
    public String toString() { return "ChatProperties[page=" + page + ", scenarios=" + scenarios.keySet() + "]"; }
}
