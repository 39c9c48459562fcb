package dev.parley.spring.web;

import dev.parley.client.ReplyEvent;
import dev.parley.client.ReplyStream;
import dev.parley.client.errors.Failure;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.LinkedHashSet;
import java.util.Queue;
import java.util.Set;
import java.util.concurrent.CancellationException;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Executor;
import java.util.concurrent.Flow;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import org.springframework.http.MediaType;
import org.springframework.web.servlet.mvc.method.annotation.ResponseBodyEmitter.DataWithMediaType;
import org.springframework.web.servlet.mvc.method.annotation.SseEmitter;

/**
 * Writes one reply to one browser. The next event is requested when the one before it is written: the thread of the
 * client, which must not block, only hands each event over.
 */
final class BrowserStream implements Flow.Subscriber<ReplyEvent> {
    private static final MediaType TEXT = new MediaType(MediaType.TEXT_PLAIN, StandardCharsets.UTF_8);

    private final ReplyStream stream;
    private final Translation translation;
    private final Executor writers;
    private final ScheduledExecutorService timers;
    private final Duration keepAlive;
    private final SseEmitter emitter = new SseEmitter(0L);
    private final CompletableFuture<ReplyEvent> first = new CompletableFuture<>();
    /** The writes that have not ended, in order. A thread takes one after the other while there are any. */
    private final Queue<Runnable> writes = new ConcurrentLinkedQueue<>();
    private final AtomicInteger pending = new AtomicInteger();
    private volatile Flow.Subscription subscription;
    private volatile long writtenAt;
    private volatile boolean over;

    BrowserStream(
            ReplyStream stream, ReplyMapping mapping, Executor writers, ScheduledExecutorService timers, Duration keepAlive) {
        this.stream = stream;
        this.translation = new Translation(mapping, stream);
        this.writers = writers;
        this.timers = timers;
        this.keepAlive = keepAlive;
    }

    /** Waits for the first event, then writes it and all further ones. It is in {@code open} until its end. */
    SseEmitter open(Set<BrowserStream> open) {
        stream.subscribe(this);
        ReplyEvent accepted = awaitFirst();
        open.add(this);
        emitter.onCompletion(() -> {
            open.remove(this);
            leave();
        });
        writtenAt = System.nanoTime();
        write(() -> forward(accepted));
        awaitSilence(keepAlive.toNanos());
        return emitter;
    }

    private ReplyEvent awaitFirst() {
        try {
            return first.get();
        } catch (InterruptedException e) {
            leave();
            Thread.currentThread().interrupt();
            throw new CancellationException("the thread was interrupted");
        } catch (ExecutionException refused) {
            leave();
            throw (RuntimeException) refused.getCause();
        }
    }

    @Override
    public void onSubscribe(Flow.Subscription subscription) {
        this.subscription = subscription;
        subscription.request(1);
    }

    @Override
    public void onNext(ReplyEvent event) {
        if (first.isDone()) {
            write(() -> forward(event));
            return;
        }
        try {
            if (Translation.comesBeforeAcceptance(event)) {
                subscription.request(1);
            } else {
                first.complete(event);
            }
        } catch (RuntimeException refused) {
            first.completeExceptionally(refused);
        }
    }

    @Override
    public void onError(Throwable failure) {
        if (!first.completeExceptionally(failure)) {
            write(() -> {
                translation.failure((RuntimeException) failure).ifPresent(this::send);
                emitter.complete();
            });
        }
    }

    @Override
    public void onComplete() {
        if (!first.completeExceptionally(Failure.unavailable("the stream was closed", true).toException())) {
            write(emitter::complete);
        }
    }

    /** Ends the response, such as at the end of the application. */
    void end() {
        leave();
        write(emitter::complete); // not here: a write to a browser that does not read blocks it
    }

    private void leave() {
        over = true;
        stream.close();
    }

    private void forward(ReplyEvent event) {
        translation.of(event).ifPresent(this::send);
        subscription.request(1);
    }

    private void send(Object event) {
        var line = new LinkedHashSet<DataWithMediaType>();
        line.add(new DataWithMediaType("data: ", TEXT));
        line.add(new DataWithMediaType(event, MediaType.APPLICATION_JSON));
        line.add(new DataWithMediaType("\n\n", TEXT));
        transmit(line);
    }

    private void transmit(Set<DataWithMediaType> line) {
        if (over) {
            return;
        }
        try {
            emitter.send(line);
            writtenAt = System.nanoTime();
        } catch (IOException | IllegalStateException gone) {
            leave();
        }
    }

    /** Runs the task after those before it, on a thread that it may block. */
    private void write(Runnable task) {
        writes.add(task);
        if (pending.getAndIncrement() == 0) {
            writers.execute(this::runWrites);
        }
    }

    private void runWrites() {
        do {
            try {
                writes.remove().run();
            } catch (RuntimeException defect) {
                leave();
                emitter.completeWithError(defect);
            }
        } while (pending.decrementAndGet() > 0);
    }

    /** A servlet container detects a closed connection only when it writes. */
    private void awaitSilence(long delayNanos) {
        timers.schedule(this::checkSilence, delayNanos, TimeUnit.NANOSECONDS);
    }

    private void checkSilence() {
        long leftNanos = keepAlive.toNanos() - (System.nanoTime() - writtenAt);
        if (over) {
            return;
        } else if (leftNanos > 0) {
            awaitSilence(leftNanos);
            return;
        } else if (pending.get() == 0) {
            write(() -> transmit(Set.of(new DataWithMediaType(": alive\n\n", TEXT))));
        }
        awaitSilence(keepAlive.toNanos());
    }
}
