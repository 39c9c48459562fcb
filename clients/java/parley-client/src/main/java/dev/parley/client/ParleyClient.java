package dev.parley.client;

import dev.parley.v1.CancelRequest;
import dev.parley.v1.CatalogGrpc;
import dev.parley.v1.ChatGrpc;
import dev.parley.v1.GetQuotaRequest;
import dev.parley.v1.GetReplyRequest;
import dev.parley.v1.ListModelsRequest;
import dev.parley.v1.Model;
import dev.parley.v1.PollReplyRequest;
import dev.parley.v1.PollReplyResponse;
import dev.parley.v1.Quota;
import dev.parley.v1.Reply;
import dev.parley.v1.ReplyRequest;
import dev.parley.v1.ResumeReplyRequest;
import dev.parley.v1.TokenChunk;
import io.grpc.Channel;
import java.time.Duration;
import java.util.List;
import java.util.UUID;
import java.util.function.Supplier;
import java.util.stream.Stream;

/**
 * Client of a Parley server for one caller. It is thread-safe. Close it when done.
 *
 * <p>Requests and responses are the messages of {@code dev.parley.v1}, generated from the contract. The client adds a
 * {@code request_id} to a {@link ReplyRequest} without one, so that retries do not start a second reply. Methods throw
 * a {@link dev.parley.client.errors.ParleyException}. Calls, but not streams, block their thread; an interrupt ends a
 * call with a {@link java.util.concurrent.CancellationException}.
 */
public final class ParleyClient implements AutoCloseable {
    /** Time limit of a call that waits on the server, in addition to its wait. */
    private static final Duration ANSWER = Duration.ofSeconds(15);
    private static final Duration POLL_WAIT = Duration.ofSeconds(20);

    private final Connection connection;
    private final Conversations conversations;
    private final Admin admin;

    ParleyClient(Connection connection) {
        this.connection = connection;
        this.conversations = new Conversations(connection);
        this.admin = new Admin(connection);
    }

    /** Returns a builder; {@code address} is {@code host:port} or a gRPC target. */
    public static ParleyClientBuilder builder(String address) { return new ParleyClientBuilder(address); }

    /** As {@link #streamReply(ReplyRequest)}, for a text in a new conversation. */
    public ReplyStream streamReply(String text) {
        return streamReply(ReplyRequest.newBuilder().setText(text).build());
    }

    /**
     * Returns a stream that starts a reply when it is first read. With the {@code request_id} of an earlier request the
     * stream reads the reply that this request started.
     */
    public ReplyStream streamReply(ReplyRequest request) {
        ReplyRequest keyed = withRequestId(request);
        return new ReplyStream(connection, new Transcript("", 0), keyed, keyed.getStreamOptions());
    }

    /** Returns a stream of a running or finished reply, from its start. */
    public ReplyStream resume(String replyId) { return resume(replyId, 0); }

    /**
     * Returns a stream of a running or finished reply, from the chunk after {@code afterSequence}. The {@code text} of
     * the stream and of its events does not contain the text up to there.
     */
    public ReplyStream resume(String replyId, int afterSequence) {
        return resume(ResumeReplyRequest.newBuilder().setReplyId(replyId).setAfterSequence(afterSequence).build());
    }

    /** As {@link #resume(String, int)}, with the options of a request. */
    public ReplyStream resume(ResumeReplyRequest request) {
        var transcript = new Transcript(request.getReplyId(), request.getAfterSequence());
        return new ReplyStream(connection, transcript, null, request.getStreamOptions());
    }

    /** As {@link #createReply(ReplyRequest)}, for a text in a new conversation. */
    public Reply createReply(String text) {
        return createReply(ReplyRequest.newBuilder().setText(text).build());
    }

    /**
     * Starts a reply, waits for its end for at most the {@code wait} of the request (zero: does not wait), and returns
     * its current state. A failed reply is returned, not thrown: see its state and error.
     */
    public Reply createReply(ReplyRequest request) {
        ReplyRequest keyed = withRequestId(request);
        if (!keyed.hasWait()) {
            return connection.call(ChatGrpc.getCreateReplyMethod(), () -> keyed, Duration.ZERO, true);
        }
        Duration wait = Durations.of(keyed.getWait());
        long deadline = System.nanoTime() + wait.toNanos();
        // Each attempt waits only for the remaining time. The server ignores `wait` when it compares requests.
        Supplier<ReplyRequest> attempt = () ->
                keyed.toBuilder().setWait(Durations.nanos(Math.max(0, deadline - System.nanoTime()))).build();
        return connection.call(ChatGrpc.getCreateReplyMethod(), attempt, wait.plus(ANSWER), true);
    }

    /**
     * Returns the chunks after {@code after_sequence}; waits up to the request's {@code wait} for the first, by default
     * 20 s. The response's {@code after_sequence} is the cursor for the next poll.
     */
    public PollReplyResponse poll(PollReplyRequest request) {
        PollReplyRequest whole = request.hasWait()
                ? request
                : request.toBuilder().setWait(Durations.nanos(POLL_WAIT.toNanos())).build();
        Duration limit = Durations.of(whole.getWait()).plus(ANSWER);
        return connection.call(ChatGrpc.getPollReplyMethod(), () -> whole, limit, true);
    }

    /** Polls until the terminal chunk, one request for each element of the stream, including empty responses. */
    public Stream<PollReplyResponse> polls(PollReplyRequest request) {
        return Pages.stream(
                cursor -> poll(request.toBuilder().setAfterSequence(cursor).build()),
                request.getAfterSequence(),
                answer -> answer.getChunksList().stream().anyMatch(ParleyClient::isTerminal)
                        ? null
                        : answer.getAfterSequence());
    }

    /** As {@link #cancel(CancelRequest)}, by the id of the reply and without a reason. */
    public Reply cancel(String replyId) {
        return cancel(CancelRequest.newBuilder().setReplyId(replyId).build());
    }

    /**
     * Cancels a reply and returns it with its partial text. Throws a
     * {@link dev.parley.client.errors.ReplyNotFoundException} for a {@code request_id} that the server has not received
     * yet; it will then accept the request as cancelled.
     */
    public Reply cancel(CancelRequest request) {
        if (request.getTargetCase() == CancelRequest.TargetCase.TARGET_NOT_SET) {
            throw new IllegalArgumentException("name a reply_id, a request_id or a conversation_id");
        }
        return connection.call(ChatGrpc.getCancelMethod(), request);
    }

    /** Returns the current state of the reply. */
    public Reply getReply(String replyId) {
        var request = GetReplyRequest.newBuilder().setReplyId(replyId).build();
        return connection.call(ChatGrpc.getGetReplyMethod(), request);
    }

    /** Returns the models that the caller may use. */
    public List<Model> models() {
        var request = ListModelsRequest.getDefaultInstance();
        return connection.call(CatalogGrpc.getListModelsMethod(), request).getModelsList();
    }

    /** Returns the caller's limits and their current use. */
    public List<Quota> quotas() {
        var request = GetQuotaRequest.getDefaultInstance();
        return connection.call(CatalogGrpc.getGetQuotaMethod(), request).getQuotasList();
    }

    /** The calls of the Conversations service. */
    public Conversations conversations() { return conversations; }

    /** The calls of the Admin service. */
    public Admin admin() { return admin; }

    /**
     * Returns a client for another end user that shares this client's connection. It is cheap enough to call for each
     * request of a web application. Closing one client closes both.
     */
    public ParleyClient actingFor(String endUser) {
        return new ParleyClient(connection.actingFor(endUser));
    }

    /**
     * Begins to connect to the server, so that the first call does not have to. Returns at once, also if the server cannot
     * be reached.
     */
    public void connect() { connection.connect(); }

    /** The channel with the caller's identity, for services without a method here (Health). */
    public Channel channel() { return connection.channel; }

    /** Ends all calls with an error, then the client's threads. Running replies continue on the server. */
    @Override
    public void close() { connection.close(); }

    private static ReplyRequest withRequestId(ReplyRequest request) {
        return request.getRequestId().isEmpty()
                ? request.toBuilder().setRequestId(UUID.randomUUID().toString()).build()
                : request;
    }

    private static boolean isTerminal(TokenChunk chunk) { return chunk.hasFinished() || chunk.hasFailed(); }
}
