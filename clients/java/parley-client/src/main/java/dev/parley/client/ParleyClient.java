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
 * Calls a Parley server: one object for one server and one caller, for any number of threads. Close it when done.
 *
 * <p>Requests and answers are the messages of {@code dev.parley.v1}, generated from the contract. A {@link ReplyRequest}
 * without a {@code request_id} gets one, so that it may be sent any number of times and is answered once. Failures are
 * {@link dev.parley.client.errors.ParleyException}s. A call, but not a stream, blocks its thread; an interrupt ends it with
 * a {@link java.util.concurrent.CancellationException}.
 */
public final class ParleyClient implements AutoCloseable {
    /** What a call that waits on the server may take beyond that wait. */
    private static final Duration ANSWER = Duration.ofSeconds(15);
    private static final Duration POLL_WAIT = Duration.ofSeconds(20);

    private final Connection connection;
    private final Conversations conversations;

    ParleyClient(Connection connection) {
        this.connection = connection;
        this.conversations = new Conversations(connection);
    }

    /** A builder of a client of the server at this {@code host:port} or gRPC target. */
    public static ParleyClientBuilder builder(String address) { return new ParleyClientBuilder(address); }

    /** Starts a reply to this text in a new conversation, once the stream's reader begins. */
    public ReplyStream streamReply(String text) {
        return streamReply(ReplyRequest.newBuilder().setText(text).build());
    }

    /** Starts a reply once the stream's reader begins; a repeated {@code request_id} attaches to the reply it started. */
    public ReplyStream streamReply(ReplyRequest request) {
        ReplyRequest keyed = withRequestId(request);
        return new ReplyStream(connection, new Transcript("", 0), keyed, keyed.getStreamOptions());
    }

    /** Follows a reply, running or ended, from its start. */
    public ReplyStream resume(String replyId) { return resume(replyId, 0); }

    /** Follows a reply from after a chunk that the caller has. The stream's {@code text} is what comes after it. */
    public ReplyStream resume(String replyId, int afterSequence) {
        return resume(ResumeReplyRequest.newBuilder().setReplyId(replyId).setAfterSequence(afterSequence).build());
    }

    /** Follows a reply with the options of this request. */
    public ReplyStream resume(ResumeReplyRequest request) {
        var transcript = new Transcript(request.getReplyId(), request.getAfterSequence());
        return new ReplyStream(connection, transcript, null, request.getStreamOptions());
    }

    /** As {@link #createReply(ReplyRequest)}, to this text in a new conversation. */
    public Reply createReply(String text) {
        return createReply(ReplyRequest.newBuilder().setText(text).build());
    }

    /**
     * Starts a reply and waits for its end, at most for the {@code wait} of the request (zero: not at all), then returns it
     * as it stands. A reply that failed is returned, not thrown: see its state and error.
     */
    public Reply createReply(ReplyRequest request) {
        ReplyRequest keyed = withRequestId(request);
        if (!keyed.hasWait()) {
            return connection.call(ChatGrpc.getCreateReplyMethod(), () -> keyed, Duration.ZERO, true);
        }
        Duration wait = Durations.of(keyed.getWait());
        long deadline = System.nanoTime() + wait.toNanos();
        // Each attempt waits for what is left, so that attempts do not add up. The key is compared without it.
        Supplier<ReplyRequest> attempt = () ->
                keyed.toBuilder().setWait(Durations.nanos(Math.max(0, deadline - System.nanoTime()))).build();
        return connection.call(ChatGrpc.getCreateReplyMethod(), attempt, wait.plus(ANSWER), true);
    }

    /** What came after a chunk, waiting 20 s for a first one where the request does not say how long. */
    public PollReplyResponse poll(PollReplyRequest request) {
        PollReplyRequest whole = request.hasWait()
                ? request
                : request.toBuilder().setWait(Durations.nanos(POLL_WAIT.toNanos())).build();
        Duration limit = Durations.of(whole.getWait()).plus(ANSWER);
        return connection.call(ChatGrpc.getPollReplyMethod(), () -> whole, limit, true);
    }

    /** Polls until the terminal chunk has come, as the elements are taken, each from where the last one ended. */
    public Stream<PollReplyResponse> polls(PollReplyRequest request) {
        return Pages.stream(
                cursor -> poll(request.toBuilder().setAfterSequence(cursor).build()),
                request.getAfterSequence(),
                answer -> answer.getChunksList().stream().anyMatch(ParleyClient::isTerminal)
                        ? null
                        : answer.getAfterSequence());
    }

    /** As {@link #cancel(CancelRequest)}, by the reply's id and without a reason. */
    public Reply cancel(String replyId) {
        return cancel(CancelRequest.newBuilder().setReplyId(replyId).build());
    }

    /**
     * Stops a reply, and returns it with what it had written. Fails with a
     * {@link dev.parley.client.errors.ReplyNotFoundException} for a {@code request_id} that the server does not know yet: it
     * will be accepted as cancelled.
     */
    public Reply cancel(CancelRequest request) {
        if (request.getTargetCase() == CancelRequest.TargetCase.TARGET_NOT_SET) {
            throw new IllegalArgumentException("name a reply_id, a request_id or a conversation_id");
        }
        return connection.call(ChatGrpc.getCancelMethod(), request);
    }

    /** The reply as it stands now. */
    public Reply getReply(String replyId) {
        var request = GetReplyRequest.newBuilder()
                .setReplyId(replyId)
                .build();
        return connection.call(ChatGrpc.getGetReplyMethod(), request);
    }

    /** The models that the caller may name. */
    public List<Model> models() {
        var request = ListModelsRequest.getDefaultInstance();
        return connection.call(CatalogGrpc.getListModelsMethod(), request).getModelsList();
    }

    /** The caller's limits and what is left of them. */
    public List<Quota> quotas() {
        var request = GetQuotaRequest.getDefaultInstance();
        return connection.call(CatalogGrpc.getGetQuotaMethod(), request).getQuotasList();
    }

    /** Calls on conversations. */
    public Conversations conversations() { return conversations; }

    /**
     * A client that acts for another end user over this one's connection: cheap enough for each request of a web
     * application. They are closed together.
     */
    public ParleyClient actingFor(String endUser) {
        return new ParleyClient(connection.actingFor(endUser));
    }

    /** The channel with the caller's identity, for services of the server that this client does not wrap (Admin, Health). */
    public Channel channel() { return connection.channel; }

    /** Ends all calls, not the replies, then the client's threads. Whoever waits for a call or a stream gets an error. */
    @Override
    public void close() { connection.close(); }

    private static ReplyRequest withRequestId(ReplyRequest request) {
        return request.getRequestId().isEmpty()
                ? request.toBuilder().setRequestId(UUID.randomUUID().toString()).build()
                : request;
    }

    private static boolean isTerminal(TokenChunk chunk) { return chunk.hasFinished() || chunk.hasFailed(); }
}
