package dev.parley.spring.web;

import dev.parley.client.ReplyStream;
import dev.parley.client.errors.ParleyException;
import java.time.Duration;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.Executor;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.ThreadFactory;
import org.springframework.context.SmartLifecycle;
import org.springframework.core.task.VirtualThreadTaskExecutor;
import org.springframework.http.HttpHeaders;
import org.springframework.http.MediaType;
import org.springframework.http.ResponseEntity;
import org.springframework.scheduling.concurrent.CustomizableThreadFactory;
import org.springframework.web.servlet.mvc.method.annotation.SseEmitter;

/**
 * Sends replies to browsers as server-sent events, for Spring MVC.
 *
 * <p>A reply is read only as fast as its browser takes it, so that a slow browser costs at most 64 KiB. A browser that
 * leaves ends the call to Parley with the next write, at most one interval of the keep-alive later; the request's
 * {@code on_disconnect} decides whether the reply continues. The end of the application ends all responses, before the
 * web server waits for them.
 */
public final class ReplySse implements SmartLifecycle, AutoCloseable {
    private static final Duration KEEP_ALIVE = Duration.ofSeconds(10);
    private static final int FIRST_VIRTUAL_THREADS = 21;

    private static final MediaType EVENTS = MediaType.parseMediaType("text/event-stream;charset=utf-8");

    private final Duration keepAlive;
    private final ThreadFactory threads = threads("parley-sse-");
    private final Executor writers = Runtime.version().feature() >= FIRST_VIRTUAL_THREADS
            ? new VirtualThreadTaskExecutor("parley-sse-")
            : Executors.newCachedThreadPool(threads);
    private final ScheduledExecutorService timers = Executors.newSingleThreadScheduledExecutor(threads);
    private final Set<BrowserStream> open = ConcurrentHashMap.newKeySet();
    private volatile boolean running = true;

    public ReplySse() {
        this(KEEP_ALIVE);
    }

    /** With another interval of silence after which a comment keeps the response open. */
    public ReplySse(Duration keepAlive) {
        this.keepAlive = keepAlive;
    }

    /**
     * Waits for the acceptance of the reply, and returns a response that sends its events. Throws the error of a refusal,
     * such as a {@link ParleyException}, which a {@link RefusalAdvice} answers with a status.
     */
    public ResponseEntity<SseEmitter> send(ReplyStream stream, ReplyMapping mapping) {
        if (!running) {
            stream.close();
            throw Refusal.STOPPING.exception();
        }
        var browser = new BrowserStream(stream, mapping, writers, timers, keepAlive);
        SseEmitter emitter = browser.open(open);
        if (!running) {
            browser.end();
        }
        return ResponseEntity.ok()
                .contentType(EVENTS)
                .header(HttpHeaders.CACHE_CONTROL, "no-cache")
                .header("X-Accel-Buffering", "no")
                .body(emitter);
    }

    @Override
    public void start() { running = true; }

    @Override
    public void stop() {
        running = false;
        open.forEach(BrowserStream::end);
    }

    /** Ends the timers; Spring calls it after {@link #stop}. */
    @Override
    public void close() { timers.shutdownNow(); }

    @Override
    public boolean isRunning() { return running; }

    private static ThreadFactory threads(String prefix) {
        var factory = new CustomizableThreadFactory(prefix);
        factory.setDaemon(true);
        return factory;
    }
}
