package dev.parley.client;

import static dev.parley.client.testing.Chunks.accepted;
import static dev.parley.client.testing.Chunks.finished;
import static dev.parley.client.testing.Chunks.text;
import static dev.parley.client.testing.Chunks.texts;
import static dev.parley.client.testing.ScriptedServer.abort;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertTrue;

import dev.parley.client.ReplyEvent.Accepted;
import dev.parley.client.ReplyEvent.Finished;
import dev.parley.client.ReplyEvent.Reconnecting;
import dev.parley.client.ReplyEvent.Text;
import dev.parley.client.testing.ScriptedServer;
import dev.parley.client.testing.ScriptedServer.Await;
import io.grpc.Status;
import java.util.Collections;
import java.util.List;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.Flow;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.testng.ITestResult;
import org.testng.TestListenerAdapter;
import org.testng.TestNG;

/** The publisher: the rules of the TCK, and demand that reaches the server. */
@Timeout(60)
class PublisherTest {
    private final CountDownLatch never = new CountDownLatch(1);
    private final ScriptedServer server = new ScriptedServer();
    private final ParleyClient client = ParleyClient.builder(server.address()).build();

    @AfterEach
    void stop() {
        client.close();
        server.close();
    }

    /** The signals that a subscriber received. */
    private static final class Seen implements Flow.Subscriber<ReplyEvent> {
        final BlockingQueue<Object> signals = new LinkedBlockingQueue<>();
        Flow.Subscription subscription;

        @Override
        public void onSubscribe(Flow.Subscription made) { subscription = made; }

        @Override
        public void onNext(ReplyEvent event) { signals.add(event); }

        @Override
        public void onError(Throwable failure) { signals.add(failure); }

        @Override
        public void onComplete() { signals.add("complete"); }

        Object next() throws InterruptedException { return signals.poll(5, TimeUnit.SECONDS); }
    }

    @Test
    void theReactiveStreamsTckPasses() {
        TestNG tck = new TestNG(false);
        TestListenerAdapter results = new TestListenerAdapter();
        tck.addListener(results);
        tck.setVerbose(0);
        tck.setTestClasses(new Class<?>[] {PublisherTck.class});
        tck.run();
        List<String> failed = results.getFailedTests().stream().map(PublisherTest::describe).toList();
        assertEquals(List.of(), failed);
        // Skipped: several subscribers (a stream has one), 2³¹ events, and rules without a test in the TCK.
        List<String> skipped = results.getSkippedTests().stream()
                .map(ITestResult::getName)
                .filter(name -> !name.startsWith("optional_spec111_") && !name.startsWith("untested_"))
                .toList();
        assertEquals(List.of("required_spec317_mustNotSignalOnErrorWhenPendingAboveLongMaxValue"), skipped);
        assertEquals(25, results.getPassedTests().size());
    }

    private static String describe(ITestResult result) { return result.getName() + ": " + result.getThrowable(); }

    @Test
    void noEventArrivesBeyondDemandAndNoCallStartsBeforeIt() throws Exception {
        server.log.addAll(texts("a", "b"));
        server.log.add(finished(3));
        Seen seen = new Seen();
        client.streamReply("Hi").subscribe(seen);
        assertEquals(List.of(), server.calls);
        seen.subscription.request(2);
        assertInstanceOf(Accepted.class, seen.next());
        assertEquals(new Text("a"), seen.next());
        assertEquals(null, seen.signals.poll(200, TimeUnit.MILLISECONDS));
        seen.subscription.request(2);
        assertEquals(new Text("b"), seen.next());
        assertInstanceOf(Finished.class, seen.next());
        assertEquals("complete", seen.next());
    }

    @Test
    void aCutUsesDemandOnlyForItsReconnectingEvent() throws Exception {
        server.log.addAll(texts("a", "b"));
        server.log.add(finished(3));
        server.cut(2, abort(Status.Code.UNAVAILABLE));
        Seen seen = new Seen();
        client.streamReply("Hi").subscribe(seen);
        seen.subscription.request(5);
        assertInstanceOf(Accepted.class, seen.next());
        assertEquals(new Text("a"), seen.next());
        assertInstanceOf(Reconnecting.class, seen.next());
        assertEquals(new Text("b"), seen.next());
        assertInstanceOf(Finished.class, seen.next());
        assertEquals("complete", seen.next());
    }

    @Test
    void cancellingTheSubscriptionEndsTheCallOnTheServerAtOnce() throws Exception {
        server.script(accepted(0), text(1, "Hel"), new Await(never));
        Seen seen = new Seen();
        client.streamReply("Hi").subscribe(seen);
        seen.subscription.request(Long.MAX_VALUE);
        seen.next();
        seen.next();
        seen.subscription.cancel();
        seen.subscription.cancel();
        assertTrue(server.calls.get(0).cancelled.await(1, TimeUnit.SECONDS));
        assertEquals(null, seen.signals.poll(100, TimeUnit.MILLISECONDS));
    }

    @Test
    void closingTheStreamCompletesItsSubscriber() throws Exception {
        server.script(accepted(0), text(1, "Hel"), new Await(never));
        Seen seen = new Seen();
        ReplyStream stream = client.streamReply("Hi");
        stream.subscribe(seen);
        seen.subscription.request(Long.MAX_VALUE);
        seen.next();
        seen.next();
        stream.close();
        assertEquals("complete", seen.next());
        assertTrue(server.calls.get(0).cancelled.await(1, TimeUnit.SECONDS));
    }

    @Test
    void aDemandOfZeroEndsTheCallWithAnError() throws Exception {
        server.script(accepted(0), new Await(never));
        Seen seen = new Seen();
        client.streamReply("Hi").subscribe(seen);
        seen.subscription.request(1);
        seen.next();
        seen.subscription.request(0);
        assertInstanceOf(IllegalArgumentException.class, seen.next());
        assertTrue(server.calls.get(0).cancelled.await(1, TimeUnit.SECONDS));
    }

    @Test
    void aSecondSubscriberGetsAnError() throws Exception {
        ReplyStream stream = client.streamReply("Hi");
        stream.subscribe(new Seen());
        Seen second = new Seen();
        stream.subscribe(second);
        second.subscription.request(1);
        assertInstanceOf(IllegalStateException.class, second.next());
    }

    @Test
    void aSlowReaderSlowsTheServerDownAndUsesLittleMemory() throws Exception {
        String piece = "x".repeat(65536);
        server.script(accepted(0), texts(Collections.nCopies(400, piece).toArray(String[]::new)), finished(401));
        Seen seen = new Seen();
        client.streamReply("Hi").subscribe(seen);
        seen.subscription.request(2);
        seen.next();
        seen.next();
        int before = -1;
        int written = server.calls.get(0).written.get();
        while (written != before) { // until the server stands still
            before = written;
            TimeUnit.MILLISECONDS.sleep(100);
            written = server.calls.get(0).written.get();
        }
        assertTrue(written < 22, "chunks of 64 KiB written: " + written); // 16 are read ahead, 3 fill the window
        seen.subscription.request(Long.MAX_VALUE);
        for (int i = 0; i < 399; i++) {
            assertEquals(new Text(piece), seen.next());
        }
        assertEquals(400 * 65536, ((Finished) seen.next()).text().length());
        assertEquals("complete", seen.next());
    }
}
