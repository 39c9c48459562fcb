package dev.parley.client;

import dev.parley.client.testing.Chunks;
import dev.parley.client.testing.ScriptedServer;
import dev.parley.v1.ReplyRequest;
import dev.parley.v1.TokenChunk;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Flow;
import org.reactivestreams.tck.TestEnvironment;
import org.reactivestreams.tck.flow.FlowPublisherVerification;
import org.testng.annotations.AfterClass;

/** The Reactive Streams TCK over a real call; {@link PublisherTest} runs it. */
public class PublisherTck extends FlowPublisherVerification<ReplyEvent> {
    private static final int MOST = 5000;

    private final ScriptedServer server = new ScriptedServer();
    private final ParleyClient client = ParleyClient.builder(server.address()).build();

    public PublisherTck() {
        super(new TestEnvironment(2000, 100));
        server.chunks(request -> reply(Integer.parseInt(request.getText())));
    }

    @AfterClass
    public void stop() {
        client.close();
        server.close();
    }

    /** Returns a reply with this many events. */
    private static List<TokenChunk> reply(int events) {
        List<TokenChunk> chunks = new ArrayList<>();
        if (events > 1) {
            chunks.add(Chunks.accepted(0));
        }
        for (int sequence = 1; sequence < events - 1; sequence++) {
            chunks.add(Chunks.text(sequence, "a"));
        }
        chunks.add(Chunks.finished(events));
        return chunks;
    }

    @Override
    public long maxElementsFromPublisher() { return MOST; }

    @Override
    public Flow.Publisher<ReplyEvent> createFlowPublisher(long events) {
        ReplyStream stream = client.streamReply(ReplyRequest.newBuilder().setText(Long.toString(events)).build());
        if (events == 0) { // a reply has an end, so only a stream that was closed has no event
            stream.close();
        }
        return stream;
    }

    @Override
    public Flow.Publisher<ReplyEvent> createFailedFlowPublisher() {
        ReplyStream taken = client.streamReply("1");
        taken.listen(event -> {});
        return taken;
    }
}
