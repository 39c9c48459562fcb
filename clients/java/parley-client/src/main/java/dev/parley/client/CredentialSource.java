package dev.parley.client;

import dev.parley.client.errors.CredentialFailedException;
import dev.parley.client.errors.Failure;
import io.grpc.CallCredentials;
import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ClientCall;
import io.grpc.ClientInterceptor;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import java.time.Duration;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.concurrent.CancellationException;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.Executor;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.function.Supplier;

/** Calls the application's function for the credential of each attempt of a call, on threads of the client. */
final class CredentialSource extends CallCredentials implements ClientInterceptor {
    static final Duration LIMIT = Duration.ofSeconds(10);

    private final Supplier<String> function;
    private final Threads threads;
    private final Duration limit;
    private final Set<CompletableFuture<String>> asked = ConcurrentHashMap.newKeySet();

    CredentialSource(Supplier<String> function, Threads threads, Duration limit) {
        this.function = function;
        this.threads = threads;
        this.limit = limit;
    }

    @Override
    public <Q, A> ClientCall<Q, A> interceptCall(MethodDescriptor<Q, A> method, CallOptions options, Channel next) {
        return next.newCall(method, options.withCallCredentials(this));
    }

    /** The executor of the call is not used: its threads may be those of the network, which must not block. */
    @Override
    public void applyRequestMetadata(RequestInfo call, Executor executor, MetadataApplier applier) {
        var answer = new CompletableFuture<String>();
        asked.add(answer);
        Future<?> asking = threads.credentials.submit(() -> ask(answer));
        answer.orTimeout(limit.toNanos(), TimeUnit.NANOSECONDS).whenComplete((credential, error) -> {
            asked.remove(answer);
            if (error instanceof TimeoutException || error instanceof CancellationException) {
                asking.cancel(true);
            }
            finish(credential, error, applier);
        });
    }

    /** Ends the waits for all credentials, so that the calls which need them can end. */
    void close() { asked.forEach(answer -> answer.cancel(false)); }

    private void ask(CompletableFuture<String> answer) {
        try {
            answer.complete(function.get());
        } catch (Throwable e) {
            answer.completeExceptionally(e);
        }
    }

    private void finish(String credential, Throwable error, MetadataApplier applier) {
        try {
            if (error == null) {
                applier.apply(headers(credential));
                return;
            }
        } catch (IllegalArgumentException e) {
            error = e;
        }
        // The text of the function's own exception may contain a secret: only the cause has it.
        String what = error instanceof TimeoutException
                ? "did not return within " + limit.toMillis() / 1e3 + " s"
                : "failed with " + error.getClass().getSimpleName();
        var failure = new Failure(
                "the function for the credential " + what, "", Status.Code.UNAUTHENTICATED, true, Optional.empty(), Map.of());
        applier.fail(Status.UNAUTHENTICATED.withCause(new CredentialFailedException(failure, error)));
    }

    private static Metadata headers(String credential) {
        if (credential == null || credential.isEmpty()) {
            throw new IllegalArgumentException("the credential is empty");
        }
        return Settings.metadata(credential, "");
    }
}
