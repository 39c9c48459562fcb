package com.example.chat;

import dev.parley.client.ReplyEvent;
import dev.parley.client.ReplyEvent.Accepted;
import dev.parley.client.ReplyEvent.Finished;
import dev.parley.client.ReplyEvent.Snapshot;
import dev.parley.client.ReplyEvent.Text;
import dev.parley.client.ReplyListener;
import dev.parley.client.ReplyStream;
import dev.parley.client.errors.ParleyException;
import java.io.IOException;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import org.springframework.scheduling.annotation.Scheduled;
import org.springframework.stereotype.Component;
import org.springframework.web.servlet.mvc.method.annotation.SseEmitter;

/** Sends replies to browsers as server-sent events: accepted, chunk, replace, done and error. */
@Component
class Browsers {
    record Begun(String replyId, String conversationId, String messageId) {}

    record Chunk(String text) {}

    record Done(String reason) {}

    record Failed(String reason, String message, boolean retryable) {
        static Failed of(RuntimeException failure) {
            return failure instanceof ParleyException error
                    ? new Failed(error.reason(), error.failure().message(), error.retryable())
                    : new Failed("", "internal error", false);
        }
    }

    private final Set<SseEmitter> open = ConcurrentHashMap.newKeySet();

    /** Sends a reply until the browser leaves. Then the call ends; the reply can be resumed. */
    SseEmitter send(ReplyStream stream) {
        SseEmitter browser = new SseEmitter(0L);
        open.add(browser);
        browser.onCompletion(() -> {
            open.remove(browser);
            stream.close();
        });
        stream.listen(new ReplyListener() {
            @Override
            public void onEvent(ReplyEvent event) {
                if (event instanceof Accepted accepted) {
                    say("accepted", new Begun(accepted.replyId(), accepted.conversationId(), accepted.messageId()));
                } else if (event instanceof Text text) {
                    say("chunk", new Chunk(text.text()));
                } else if (event instanceof Snapshot snapshot) {
                    say("replace", new Chunk(snapshot.text()));
                } else if (event instanceof Finished finished) {
                    say("done", new Done(finished.reason()));
                }
            }

            @Override
            public void onEnd() { browser.complete(); }

            @Override
            public void onError(RuntimeException failure) {
                say("error", Failed.of(failure));
                browser.complete();
            }

            private void say(String name, Object data) {
                try {
                    browser.send(SseEmitter.event().id(EventId.of(stream).toString()).name(name).data(data));
                } catch (IOException | IllegalStateException gone) {
                    stream.close();
                }
            }
        });
        return browser;
    }

    /**
     * Also writes while the model is silent, since a servlet container detects a closed connection only when it writes.
     */
    @Scheduled(fixedDelayString = "${chat.keep-alive:10s}")
    void keepAlive() {
        for (SseEmitter browser : open) {
            try {
                browser.send(SseEmitter.event().comment("alive"));
            } catch (IOException | IllegalStateException gone) {
                browser.completeWithError(gone);
            }
        }
    }
}
