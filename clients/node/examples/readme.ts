import { Client, ReplyFailed } from "@parley/client";

using client = new Client(process.env["PARLEY_ADDRESS"] ?? "127.0.0.1:50051", { endUser: "ada" });

const stream = client.streamReply({ text: "Tell me a story.", model: "scripted" });
try {
  for await (const event of stream) {
    if (event.type === "text") process.stdout.write(event.text);
    if (event.type === "reconnecting") console.error(`cut; again in ${event.delayMs} ms`);
    if (event.type === "finished") console.log(`\n${event.reason}, ${event.usage.completionTokens} tokens`);
  }
} catch (error) {
  if (!(error instanceof ReplyFailed)) throw error;
  console.error(`${error.reason} after ${JSON.stringify(error.text)}; try again: ${error.retryable}`);
}

// Later, or in another process: the same reply from any point.
for await (const event of client.resume(stream.replyId, { afterSequence: 3 })) {
  if (event.type === "finished") console.log(`after the third piece: ${event.text}`);
}
