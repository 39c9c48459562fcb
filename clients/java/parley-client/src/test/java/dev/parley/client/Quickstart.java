package dev.parley.client;

import dev.parley.client.ReplyEvent.Finished;
import dev.parley.client.ReplyEvent.Text;
import dev.parley.client.errors.ReplyFailedException;
import dev.parley.v1.ReplyRequest;

/** The example program that {@link ServerTest} runs. */
final class Quickstart {
    public static void main(String[] arguments) {
        try (ParleyClient client = ParleyClient.builder(arguments[0]).endUser("ada").build()) {
            var request = ReplyRequest.newBuilder().setText("Tell me a story.").setModel("scripted").build();
            try (ReplyStream stream = client.streamReply(request)) {
                for (ReplyEvent event : stream) {
                    if (event instanceof Text piece) {
                        System.out.print(piece.text());
                    } else if (event instanceof Finished end) {
                        System.out.println("\n[" + end.reason() + "]");
                    }
                }
            } catch (ReplyFailedException failed) {
                System.out.println("failed: " + failed.reason() + ", after: " + failed.text());
            }
        }
    }

    private Quickstart() {}
}
