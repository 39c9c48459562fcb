package com.example.chat;

import static org.assertj.core.api.Assertions.assertThat;

import dev.parley.v1.Message;
import dev.parley.v1.Part;
import dev.parley.v1.Reply;
import dev.parley.v1.ReplyError;
import java.util.List;
import org.junit.jupiter.api.DisplayName;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** Replies as tasks. */
class TaskTest {
    private static Reply reply(Reply.State state, String text) {
        return Reply.newBuilder()
                .setState(state)
                .setMessageId("message-2")
                .setMessage(Message.newBuilder().addParts(Part.newBuilder().setText(text)))
                .build();
    }

    @ParameterizedTest
    @ValueSource(strings = {
        "Once upon a time,  there\n\nwas a\tlighthouse. ",
        "  two spaces first",
        "昔々あるところに、おじいさんとおばあさんが住んでいました。おじいさんは山へ芝刈りに、おばあさんは川へ洗濯に行きました。",
        "emoji 👩‍🚀🚀🚀🚀🚀🚀🚀🚀🚀🚀🚀🚀🚀🚀🚀🚀🚀🚀🚀🚀🚀🚀🚀🚀🚀🚀🚀🚀🚀🚀🚀🚀🚀🚀🚀🚀 end",
        "https://example.com/an/address/that/is/longer/than/one/piece?and=has&no=space",
        "a",
        ""
    })
    @DisplayName("S0.1, S0.9: chunks are only appended to, without duplicates, however the text grows")
    void chunksAreOnlyAppendedTo(String text) {
        List<String> before = List.of();
        for (int end = 0; end <= text.length(); end = end == text.length() ? end + 1 : text.offsetByCodePoints(end, 1)) {
            List<String> chunks = Task.of(reply(Reply.State.STATE_STREAMING, text.substring(0, end))).chunks();
            assertThat(chunks.size()).isGreaterThanOrEqualTo(before.size());
            assertThat(chunks.subList(0, before.size())).isEqualTo(before);
            assertThat(text).startsWith(String.join("", chunks));
            before = chunks;
        }
        List<String> ended = Task.of(reply(Reply.State.STATE_FAILED, text)).chunks();
        assertThat(ended.subList(0, before.size())).isEqualTo(before);
        assertThat(String.join("", ended)).isEqualTo(text);
    }

    @Test
    void aWordIsHeldBackWhileItMayGrow() {
        assertThat(Task.of(reply(Reply.State.STATE_STREAMING, "one tw")).chunks()).containsExactly("one ");
        assertThat(Task.of(reply(Reply.State.STATE_STREAMING, "one two\n\n")).chunks()).containsExactly("one ", "two\n", "\n");
        assertThat(Task.of(reply(Reply.State.STATE_STREAMING, "a".repeat(70))).chunks()).hasSize(2);
    }

    @Test
    void aCompletedTaskHasTheMessageAndNoChunks() {
        var task = Task.of(reply(Reply.State.STATE_COMPLETED, "one two"));
        assertThat(task.status()).isEqualTo("completed");
        assertThat(task.chunks()).isEmpty();
        assertThat(task.finalMessage().content()).isEqualTo("one two");
        assertThat(task.finalMessage().id()).isEqualTo("message-2");
    }

    @Test
    void aStoppedTaskKeepsItsText() {
        assertThat(Task.of(reply(Reply.State.STATE_CANCELLED, "one")).finalMessage().content()).isEqualTo("one");
        assertThat(Task.of(reply(Reply.State.STATE_CANCELLED, "")).error()).contains("stopped");
    }

    @Test
    void aFailedTaskHasASentence() {
        var error = ReplyError.newBuilder().setCode(10).setMessage("the model does not answer").build();
        var task = Task.of(reply(Reply.State.STATE_FAILED, "one").toBuilder().setError(error).build());
        assertThat(task.status()).isEqualTo("failed");
        assertThat(task.error()).isNotEmpty();
        assertThat(task.finalMessage()).isNull();
    }
}
