package dev.parley.spring.web;

import dev.parley.client.ReplyEvent;
import dev.parley.client.ReplyStream;
import dev.parley.client.errors.Failure;
import java.time.Duration;
import java.util.concurrent.Flow;
import java.util.concurrent.atomic.AtomicLong;
import org.springframework.context.SmartLifecycle;
import org.springframework.http.HttpHeaders;
import org.springframework.http.MediaType;
import org.springframework.http.ResponseEntity;
import org.springframework.http.codec.ServerSentEvent;
import reactor.core.publisher.Flux;
import reactor.core.publisher.Mono;
import reactor.core.publisher.MonoSink;
import reactor.core.publisher.Sinks;

/**
 * Sends replies to browsers as server-sent events, for Spring WebFlux.
 *
 * <p>A reply is read only as fast as its browser takes it. A browser that leaves ends the call to Parley; the request's
 * {@code on_disconnect} decides whether the reply continues. The end of the application ends all responses, before the
 * web server waits for them.
 */
public final class ReplyFlux implements SmartLifecycle {
    private static final Duration KEEP_ALIVE = Duration.ofSeconds(10);

    private final Duration keepAlive;
    private volatile Sinks.One<Boolean> stopped = Sinks.one();
    private volatile boolean running = true;

    public ReplyFlux() {
        this(KEEP_ALIVE);
    }

    /** With another interval of silence after which a comment keeps the response open. */
    public ReplyFlux(Duration keepAlive) {
        this.keepAlive = keepAlive;
    }

    /**
     * Returns a response, once the reply is accepted, that sends the events of the reply. Fails with the error of a
     * refusal: {@code onErrorResume(error -> Mono.just(Refusal.of(error).toResponse()))}, or the same in an
     * exception handler.
     */
    public Mono<ResponseEntity<Flux<ServerSentEvent<Object>>>> send(ReplyStream stream, ReplyMapping mapping) {
        if (!running) {
            stream.close();
            return Mono.error(Refusal.STOPPING.exception());
        }
        return Mono.<Flux<ReplyEvent>>create(accepted -> stream.subscribe(new Pipe(accepted)))
                .map(events -> ResponseEntity.ok()
                        .contentType(MediaType.TEXT_EVENT_STREAM)
                        .header(HttpHeaders.CACHE_CONTROL, "no-cache")
                        .header("X-Accel-Buffering", "no")
                        .body(serverSent(events, new Translation(mapping, stream))));
    }

    private Flux<ServerSentEvent<Object>> serverSent(Flux<ReplyEvent> events, Translation translation) {
        var writtenAt = new AtomicLong(System.nanoTime());
        Flux<ServerSentEvent<Object>> mapped = events
                .concatMapIterable(event -> translation.of(event).stream().toList(), 1)
                .onErrorResume(RuntimeException.class, failure -> Mono.justOrEmpty(translation.failure(failure)))
                .doOnNext(event -> writtenAt.set(System.nanoTime()))
                .map(event -> ServerSentEvent.builder(event).build());
        return mapped.publish(shared -> Flux.merge(shared, silence(writtenAt).takeUntilOther(shared.ignoreElements())), 1)
                .takeUntilOther(stopped.asMono());
    }

    private Flux<ServerSentEvent<Object>> silence(AtomicLong writtenAt) {
        return Flux.interval(keepAlive)
                .onBackpressureDrop()
                .filter(tick -> System.nanoTime() - writtenAt.get() >= keepAlive.toNanos())
                .map(tick -> ServerSentEvent.builder().comment(" alive").build());
    }

    @Override
    public void start() {
        stopped = Sinks.one();
        running = true;
    }

    @Override
    public void stop() {
        running = false;
        stopped.tryEmitValue(true);
    }

    @Override
    public boolean isRunning() { return running; }

    /** Emits the events once the first is there; the next event is requested when the one before it was taken. */
    private static final class Pipe implements Flow.Subscriber<ReplyEvent> {
        private final MonoSink<Flux<ReplyEvent>> accepted;
        private final Sinks.Many<ReplyEvent> events = Sinks.many().unicast().onBackpressureBuffer();
        private boolean open;
        private Flow.Subscription subscription;

        Pipe(MonoSink<Flux<ReplyEvent>> accepted) {
            this.accepted = accepted;
        }

        @Override
        public void onSubscribe(Flow.Subscription subscription) {
            this.subscription = subscription;
            accepted.onCancel(subscription::cancel);
            subscription.request(1);
        }

        @Override
        public void onNext(ReplyEvent event) {
            if (open) {
                events.tryEmitNext(event);
                return;
            }
            try {
                if (Translation.comesBeforeAcceptance(event)) {
                    subscription.request(1);
                    return;
                }
            } catch (RuntimeException refused) {
                subscription.cancel();
                accepted.error(refused);
                return;
            }
            open = true;
            events.tryEmitNext(event);
            accepted.success(events.asFlux()
                    .doOnNext(taken -> subscription.request(1))
                    .doOnCancel(subscription::cancel));
        }

        @Override
        public void onError(Throwable failure) {
            if (open) {
                events.tryEmitError(failure);
            } else {
                accepted.error(failure);
            }
        }

        @Override
        public void onComplete() {
            if (open) {
                events.tryEmitComplete();
            } else {
                accepted.error(Failure.unavailable("the stream was closed", true).toException());
            }
        }
    }
}
