package com.example.chat;

import com.example.chat.ChatProperties.Scenario;
import dev.parley.spring.web.Refusal;
import dev.parley.v1.*;
import org.springframework.stereotype.Component;

/** What Parley is told about a conversation and about each answer. */
@Component
record Scenarios(ChatProperties chat) {
    private static final int PROMPT_TOKENS = 10_000;
    private static final int REMINDER_INTERVAL = 50;
    private static final double TEMPERATURE = 0.8;
    private static final int OUTPUT_TOKENS = 8192;

    /**
     * A new conversation: its scenario is the system prompt. The whole history is sent to the model as long as it fits into
     * the budget; then the oldest messages are left out.
     */
    Conversation conversation(String id, Object scenarioId) {
        Object name = scenarioId == null ? chat.scenarios().keySet().iterator().next() : scenarioId;
        Scenario scenario = chat.scenarios().get(name);
        if (scenario == null) {
            throw Refusal.of(400, "INVALID_REQUEST", "There is no such scenario.").exception();
        }
        return Conversation.newBuilder()
                .setId(id)
                .addSystem(scenario.system())
                .setContext(ContextPolicy.newBuilder()
                        .setMaxTokens(PROMPT_TOKENS)
                        .setOverflow(ContextPolicy.Overflow.OVERFLOW_DROP_OLDEST)
                        .setReminder(scenario.reminder())
                        .setReminderInterval(REMINDER_INTERVAL))
                .putLabels("scenario", name.toString())
                .build();
    }

    /** The settings of each answer. */
    ReplyRequest reply() {
        return ReplyRequest.newBuilder()
                .setModel(chat.model())
                .setSampling(Sampling.newBuilder().setTemperature(TEMPERATURE).setMaxOutputTokens(OUTPUT_TOKENS))
                .build();
    }
}
