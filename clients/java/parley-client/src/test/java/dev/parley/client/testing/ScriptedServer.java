package dev.parley.client.testing;

import com.google.protobuf.Message;
import dev.parley.v1.AdminGrpc;
import dev.parley.v1.CatalogGrpc;
import dev.parley.v1.ChatGrpc;
import dev.parley.v1.ConversationsGrpc;
import dev.parley.v1.ReplyError;
import dev.parley.v1.ReplyRequest;
import dev.parley.v1.ResumeReplyRequest;
import dev.parley.v1.TokenChunk;
import io.grpc.Grpc;
import io.grpc.InsecureServerCredentials;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.Server;
import io.grpc.ServerCall;
import io.grpc.ServerCallHandler;
import io.grpc.ServerCredentials;
import io.grpc.ServerMethodDefinition;
import io.grpc.ServerServiceDefinition;
import io.grpc.ServiceDescriptor;
import io.grpc.Status;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Queue;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.Function;
import java.util.logging.Level;
import java.util.logging.Logger;
import java.util.stream.Stream;

/**
 * A gRPC server with scripted answers. Each stream call is answered with the next {@link #script}, or else from the
 * {@link #log} with the next {@link #cut}; a unary call with the {@link #answer}s or a function.
 */
public final class ScriptedServer implements AutoCloseable {
    /** A step of a call. */
    public sealed interface Step {}

    public record Send(TokenChunk chunk) implements Step {}

    /** Ends the call with a status, with or without Parley's trailer. */
    public record Abort(Status.Code code, ReplyError error) implements Step {
        @Override
        public String toString() { return error == null ? code.name() : error.getReason().name(); }
    }

    /** Continues once the latch is open. */
    public record Await(CountDownLatch latch) implements Step {}

    /** Sends only the headers. */
    public record Headers() implements Step {}

    /** Runs an action, such as breaking the connection. */
    public record Do(Runnable action) implements Step {}

    /** A call that the server received. */
    public static final class Call {
        public final String method;
        public final Message request;
        public final Metadata metadata;
        public final CountDownLatch cancelled = new CountDownLatch(1);
        public final AtomicInteger written = new AtomicInteger();
        private boolean ready;

        Call(String method, Message request, Metadata metadata) {
            this.method = method;
            this.request = request;
            this.metadata = metadata;
        }

        synchronized void setReady(boolean now) {
            ready = now;
            notifyAll();
        }

        synchronized void awaitReady(ServerCall<?, ?> call) throws InterruptedException {
            while (!call.isReady() && cancelled.getCount() > 0) {
                ready = false;
                while (!ready) {
                    wait();
                }
            }
        }
    }

    private record Cut(int after, List<Step> how) {}

    /** Otherwise gRPC logs each connection that a test breaks. */
    private static final Logger NOISE = Logger.getLogger("io.grpc.netty.shaded.io.grpc.netty.NettyServerHandler");

    static {
        NOISE.setLevel(Level.OFF);
    }

    private static final Metadata.Key<byte[]> TRAILER =
            Metadata.Key.of("parley-error-bin", Metadata.BINARY_BYTE_MARSHALLER);

    public final List<Call> calls = new CopyOnWriteArrayList<>();
    public final List<TokenChunk> log = new CopyOnWriteArrayList<>();
    private final Queue<List<Step>> scripts = new ConcurrentLinkedQueue<>();
    private final Queue<Cut> cuts = new ConcurrentLinkedQueue<>();
    private final Map<String, Function<Message, Object>> unary = new ConcurrentHashMap<>();
    private final ExecutorService threads = Executors.newCachedThreadPool(task -> {
        Thread thread = new Thread(task, "scripted-server");
        thread.setDaemon(true);
        return thread;
    });
    private final Server server;
    private volatile Function<ReplyRequest, List<TokenChunk>> chunks;

    public ScriptedServer() { this(InsecureServerCredentials.create()); }

    public ScriptedServer(ServerCredentials credentials) {
        var builder = Grpc.newServerBuilderForPort(0, credentials).executor(threads);
        for (ServiceDescriptor service : List.of(AdminGrpc.getServiceDescriptor(), ChatGrpc.getServiceDescriptor(),
                ConversationsGrpc.getServiceDescriptor(), CatalogGrpc.getServiceDescriptor())) {
            var definition = ServerServiceDefinition.builder(service);
            service.getMethods().forEach(method -> definition.addMethod(define(method)));
            builder.addService(definition.build());
        }
        try {
            server = builder.build().start();
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    public int port() { return server.getPort(); }

    public String address() { return "127.0.0.1:" + port(); }

    public static Abort abort(Status.Code code) { return new Abort(code, null); }

    public static Abort refusal(Status.Code code, String reason) {
        return new Abort(code, Chunks.error(code, reason).build());
    }

    /** The chunks and steps of the next stream call. It ends with OK if no step ends it. */
    public void script(Object... steps) { scripts.add(steps(steps)); }

    /** Ends the next stream call that reads the log after this many chunks, including `accepted`. */
    public void cut(int after, Object... how) { cuts.add(new Cut(after, steps(how))); }

    /** Answers every StreamReply without a script with the chunks of this function. */
    public void chunks(Function<ReplyRequest, List<TokenChunk>> made) { chunks = made; }

    /** Answers a unary method in order with messages and Aborts; the last one is repeated. */
    public void answer(String method, Object... answers) {
        Queue<Object> rest = new ArrayDeque<>(Arrays.asList(answers));
        answer(method, request -> rest.size() > 1 ? rest.poll() : rest.peek());
    }

    public void answer(String method, Function<Message, Object> answer) { unary.put(method, answer); }

    public List<String> methods() { return calls.stream().map(call -> call.method).toList(); }

    @Override
    public void close() {
        server.shutdownNow();
        try {
            server.awaitTermination(5, TimeUnit.SECONDS);
            threads.shutdownNow();
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
        }
    }

    private static List<Step> steps(Object... steps) {
        return Arrays.stream(steps)
                .flatMap(step -> step instanceof List<?> list ? list.stream() : Stream.of(step))
                .map(step -> step instanceof TokenChunk chunk ? new Send(chunk) : (Step) step)
                .toList();
    }

    @SuppressWarnings("unchecked")
    private ServerMethodDefinition<?, ?> define(MethodDescriptor<?, ?> method) {
        var typed = (MethodDescriptor<Message, Message>) method;
        ServerCallHandler<Message, Message> handler = (call, metadata) -> {
            call.request(2);
            return new ServerCall.Listener<>() {
                private Call seen;

                @Override
                public void onMessage(Message request) {
                    seen = new Call(typed.getBareMethodName(), request, metadata);
                    calls.add(seen);
                }

                @Override
                public void onHalfClose() { threads.execute(() -> serve(call, seen)); }

                @Override
                public void onReady() {
                    if (seen != null) {
                        seen.setReady(true);
                    }
                }

                @Override
                public void onCancel() {
                    if (seen != null) {
                        seen.cancelled.countDown();
                        seen.setReady(true);
                    }
                }
            };
        };
        return ServerMethodDefinition.create(typed, handler);
    }

    private void serve(ServerCall<Message, Message> call, Call seen) {
        try {
            if (call.getMethodDescriptor().getType() == MethodDescriptor.MethodType.UNARY) {
                Object answer = unary.get(seen.method).apply(seen.request);
                if (answer instanceof Abort abort) {
                    end(call, abort);
                } else {
                    call.sendHeaders(new Metadata());
                    call.sendMessage((Message) answer);
                    call.close(Status.OK, new Metadata());
                }
                return;
            }
            List<Step> script = scripts.poll();
            play(call, seen, script != null ? script : fromLog(seen.request));
        } catch (IllegalStateException | InterruptedException gone) {
            // The call was cancelled.
        }
    }

    private List<Step> fromLog(Message request) {
        if (chunks != null && request instanceof ReplyRequest asked) {
            return steps(chunks.apply(asked));
        }
        int after = request instanceof ResumeReplyRequest resume ? resume.getAfterSequence() : 0;
        List<Object> steps = new ArrayList<>();
        steps.add(Chunks.accepted(after));
        log.stream().filter(chunk -> chunk.getSequence() > after || chunk.hasFinished()).forEach(steps::add);
        Cut cut = cuts.poll();
        if (cut != null && cut.after() <= steps.size()) {
            steps.subList(cut.after(), steps.size()).clear();
            steps.addAll(cut.how());
        }
        return steps(steps.toArray());
    }

    private static void play(ServerCall<Message, Message> call, Call seen, List<Step> steps) throws InterruptedException {
        boolean begun = false;
        for (Step step : steps) {
            if (step instanceof Send || step instanceof Headers) {
                if (!begun) {
                    call.sendHeaders(new Metadata());
                    begun = true;
                }
                if (step instanceof Send send) {
                    seen.awaitReady(call);
                    call.sendMessage(send.chunk());
                    seen.written.incrementAndGet();
                }
            } else if (step instanceof Await await) {
                await.latch().await();
            } else if (step instanceof Do act) {
                act.action().run();
            } else if (step instanceof Abort abort) {
                end(call, abort);
                return;
            }
        }
        call.close(Status.OK, new Metadata());
    }

    private static void end(ServerCall<?, ?> call, Abort abort) {
        Metadata trailers = new Metadata();
        if (abort.error() != null) {
            trailers.put(TRAILER, abort.error().toByteArray());
        }
        call.close(abort.code().toStatus().withDescription("as scripted"), trailers);
    }
}
