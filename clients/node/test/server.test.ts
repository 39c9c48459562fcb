/** The client against a real Parley server, also with cuts, stalls, a restart and many streams. */

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, before, test } from "node:test";
import { create } from "@bufbuild/protobuf";
import {
  Client,
  InvalidRequest,
  ReplyFailed,
  ReplyNotFound,
  RequestIdReused,
  UnsupportedInput,
  type ReplyEvent,
} from "@parley/client";
import {
  ContextPolicySchema,
  ContextPolicy_Overflow,
  ReplyRequestSchema,
  Reply_State,
  Role,
} from "@parley/client/v1";
import { Parley, ROOT, script } from "./parley.js";
import { Proxy } from "./proxy.js";

const QUICK = { firstMs: 20, maxMs: 200, maxElapsedMs: 20_000 };
let parley: Parley;
let client: Client;

before(async () => {
  parley = await Parley.start();
  client = new Client(parley.address, { backoff: QUICK, endUser: "ada" });
});

after(async () => {
  client.close();
  await parley[Symbol.asyncDispose]();
});

async function all<T>(found: AsyncIterable<T>): Promise<T[]> {
  const items: T[] = [];
  for await (const item of found) items.push(item);
  return items;
}

test("text, reasoning and tool calls are complete if sent one character at a time", async () => {
  const whole = "Grüße 🙂👩‍🚀 日本 e\u0301\n";
  const stream = client.streamReply({
    text: script({
      text: whole,
      reasoning: "hm 🤔",
      pieces: "character",
      delay_s: 0.005,
      tool_calls: [{ name: "f", arguments: { q: "🙂" }, id: "c1" }],
    }),
    reasoning: true,
  });
  let reasoning = "";
  let text = "";
  for await (const event of stream) {
    if (event.type === "reasoning") reasoning += event.text;
    if (event.type === "text") {
      assert.equal(event.text, Buffer.from(event.text).toString(), "half a code point");
      text += event.text;
    }
  }
  assert.deepEqual(
    [text, stream.text, reasoning, stream.finished?.reason],
    [whole, whole, "hm 🤔", "TOOL_CALLS"],
  );
  const [call] = stream.toolCalls;
  assert.deepEqual([call?.id, call?.name, JSON.parse(call?.arguments ?? "")], ["c1", "f", { q: "🙂" }]);
});

test("a refusal before headers has the class of its trailer", async () => {
  await assert.rejects(all(client.streamReply("")), (error) => {
    assert.ok(error instanceof InvalidRequest);
    return error.reason === "INVALID_REQUEST" && error.code === "INVALID_ARGUMENT" && !error.retryable;
  });
  await assert.rejects(client.getReply("nothing"), ReplyNotFound);
});

test("the same requestId starts one reply", async () => {
  const first = client.streamReply({ text: script({ text: "a b c", delay_s: 0 }), requestId: "once" });
  await all(first);
  const again = client.streamReply({ text: script({ text: "a b c", delay_s: 0 }), requestId: "once" });
  const events = await all(again);
  assert.ok(events[0]?.type === "accepted" && events[0].replayed);
  assert.deepEqual([again.replyId, again.text], [first.replyId, "a b c"]);
  await assert.rejects(all(client.streamReply({ text: "other", requestId: "once" })), RequestIdReused);
});

test("a failed reply can be retried without repeating the message", async () => {
  const text = script({
    text: "a b c d",
    delay_s: 0,
    fault: { kind: "error", after: 2, retry_after_s: 1.5 },
  });
  const stream = client.streamReply(text);
  const failure = await all(stream).then(
    () => assert.fail("it should have failed"),
    (error: unknown) => error,
  );
  assert.ok(failure instanceof ReplyFailed);
  assert.deepEqual(
    [failure.reason, failure.code, failure.text, failure.retryable, failure.retryAfterMs],
    ["PROVIDER_UNAVAILABLE", "ABORTED", "a b ", true, 1_500],
  );
  const again = client.streamReply({
    conversationId: stream.conversationId,
    replaceMessageId: failure.messageId,
  });
  await assert.rejects(all(again), ReplyFailed);
  assert.notEqual(again.replyId, stream.replyId);
  const roles = (await all(client.conversations.messages(stream.conversationId))).map(({ role }) => role);
  assert.equal(roles.filter((role) => role === 1).length, 1);
});

test("cancel keeps the partial text", async () => {
  const stream = client.streamReply(script({ text: "word ", repeat: 1_000, delay_s: 0.01 }));
  const events: ReplyEvent[] = [];
  for await (const event of stream) {
    events.push(event);
    if (events.filter(({ type }) => type === "text").length === 3) {
      assert.equal((await stream.cancel("enough"))?.state, Reply_State.CANCELLED);
    }
  }
  const last = events.at(-1);
  assert.ok(last?.type === "finished");
  assert.deepEqual([last.reason, last.cancelReason, last.text], ["CANCELLED", "enough", stream.text]);
  assert.match(stream.text, /^(word ){3,}$/);
});

test("create, poll, and conversations", async () => {
  const done = await client.createReply({ text: script({ text: "a b", delay_s: 0 }) });
  assert.equal(done.state, Reply_State.COMPLETED);
  const started = await client.createReply(
    create(ReplyRequestSchema, { text: script({ text: "a b c", delay_s: 0.05 }) }),
    { waitMs: 0 },
  );
  const chunks = (await all(client.polls(started.id, { waitMs: 1_000 }))).flatMap((answer) => answer.chunks);
  assert.equal(chunks.map(({ event }) => (event.case === "text" ? event.value : "")).join(""), "a b c");
  await client.conversations.create({ id: "mine", title: "First", labels: { a: "b" } });
  assert.equal((await client.conversations.update({ id: "mine", title: "Second" })).title, "Second");
  assert.deepEqual(
    (await all(client.conversations.list({ labels: { a: "b" } }))).map(({ id, title }) => [id, title]),
    [["mine", "Second"]],
  );
  await client.conversations.delete("mine");
  assert.ok((await client.models()).some(({ alias }) => alias === "scripted"));
});

test("S0.3: a fallback answers for a model that cannot be reached", async () => {
  const stream = client.streamReply({ model: "unreachable", text: script({ text: "a b", delay_s: 0 }) });
  const [accepted] = await all(stream);
  assert.equal(accepted?.type === "accepted" && accepted.model, "unreachable");
  const { text, finished } = stream;
  assert.deepEqual([text, finished?.model, finished?.provider], ["a b", "scripted", "typewriter"]);
  // The list of a request replaces that of the configuration.
  const failing = client.streamReply({ model: "unreachable", text: "Hi", fallbackModels: ["unreachable"] });
  await assert.rejects(all(failing), (error) => {
    assert.ok(error instanceof ReplyFailed);
    return error.model === "unreachable" && error.provider === "gone";
  });
});

test("S0.7, S0.8, S1.1, S1.3: a conversation has system sections, a model and a context policy", async () => {
  const { conversations } = client;
  const system = ["You are Ada.", "The scene is a ship."];
  const context = { maxMessages: 10, maxTokens: 10_000, reminder: "Stay Ada.", reminderInterval: 50 };
  const made = await conversations.create({
    system,
    postSystem: "Be brief.",
    model: "scripted",
    context,
  });
  const overflow = ContextPolicy_Overflow.SUMMARIZE;
  const changed = await conversations.update(
    { id: made.id, context: { overflow, maxTokens: 5_000 } },
    { fields: ["context.overflow", "context.maxTokens"] },
  );
  assert.deepEqual(
    [changed.system, changed.postSystem, changed.model, changed.context],
    [
      system,
      "Be brief.",
      "scripted",
      create(ContextPolicySchema, { ...context, overflow, maxTokens: 5_000 }),
    ],
  );
});

test("S0.11, S2.1: an image goes along with the question; the usage has its cost", async () => {
  const png = Buffer.concat([Buffer.from("\x89PNG\r\n\x1a\n", "latin1"), Buffer.alloc(100)]);
  const stream = client.streamReply({ text: script({ text: "A dot.", delay_s: 0 }), images: [png] });
  await all(stream);
  const { promptTokens, completionTokens, costNanoUsd } = stream.finished!.usage;
  assert.ok(promptTokens > 0);
  assert.equal(costNanoUsd, BigInt(promptTokens * 2_000 + completionTokens * 8_000));
  const [, question] = await all(client.conversations.messages(stream.conversationId));
  const { content } = question!.parts.at(-1)!;
  assert.ok(content.case === "image" && content.value.source.case === "imageId");
  const stored = await client.conversations.image(content.value.source.value);
  assert.deepEqual(stored.source, { case: "data", value: png });
  const refused = client.streamReply({ model: "blind", text: "What is it?", images: [png] });
  await assert.rejects(all(refused), UnsupportedInput);
});

test("S3.1: the question is stored at once, the answer after the stream", async () => {
  const roles = async (): Promise<Role[]> =>
    (await all(client.conversations.messages(stream.conversationId))).map(({ role }) => role);
  const stream = client.streamReply(script({ text: "a b c", delay_s: 0.05 }));
  await stream.next();
  assert.deepEqual(await roles(), [Role.USER]);
  await all(stream);
  assert.deepEqual(await roles(), [Role.ASSISTANT, Role.USER]);
});

test("repeated cuts lose and repeat no text", async () => {
  await using proxy = await Proxy.to(parley.port);
  using cut = new Client(proxy.address, { backoff: QUICK });
  const words = Array.from({ length: 150 }, (_, i) => `w${i} `).join("");
  let shown = "";
  let cuts = 0;
  let texts = 0;
  for await (const event of cut.streamReply(script({ text: words, delay_s: 0.01 }))) {
    if (event.type === "reconnecting") cuts += 1;
    if (event.type !== "text") continue;
    shown += event.text;
    if (++texts % 10 === 0) proxy.cut();
  }
  assert.equal(shown, words);
  assert.ok(cuts >= 4, `${cuts} cuts`);
});

test("keepalive detects a dead connection", async () => {
  await using proxy = await Proxy.to(parley.port);
  using stalled = new Client(proxy.address, {
    backoff: QUICK,
    channelOptions: { "grpc.keepalive_time_ms": 500, "grpc.keepalive_timeout_ms": 300 },
  });
  let stalledAt = 0;
  let noticedMs = Infinity;
  const stream = stalled.streamReply(script({ text: "a b c d e f g h", delay_s: 0.2 }));
  for await (const event of stream) {
    if (event.type === "text" && !stalledAt) {
      proxy.stall();
      stalledAt = performance.now();
    }
    if (event.type === "reconnecting" && proxy.accepted === 1) {
      noticedMs = performance.now() - stalledAt;
      proxy.stall(false);
    }
  }
  assert.equal(stream.text, "a b c d e f g h");
  assert.ok(noticedMs < 2_000, `${noticedMs} ms`);
});

test("500 streams at once on one connection", async () => {
  await using proxy = await Proxy.to(parley.port);
  using one = new Client(proxy.address);
  const streams = Array.from({ length: 500 }, (_, i) =>
    one.streamReply(script({ text: `${i} b c d e`, delay_s: 0.05 })),
  );
  await Promise.all(streams.map(all));
  assert.deepEqual(
    streams.map(({ text }) => text),
    streams.map((_, i) => `${i} b c d e`),
  );
  assert.equal(proxy.accepted, 1);
});

test("after a restart of the server the stream ends with the state of the reply", async () => {
  const doomed = await Parley.start();
  try {
    using survivor = new Client(doomed.address, { backoff: QUICK });
    const stream = survivor.streamReply(script({ text: "word ", repeat: 1_000, delay_s: 0.02 }));
    let reconnecting = 0;
    let texts = 0;
    const failure = await (async () => {
      for await (const event of stream) {
        if (event.type === "text" && ++texts === 20) await doomed.kill();
        if (event.type === "reconnecting" && ++reconnecting === 2) await doomed.start();
      }
    })().then(
      () => assert.fail("it should have failed"),
      (error: unknown) => error,
    );
    assert.ok(failure instanceof ReplyFailed, String(failure));
    assert.deepEqual(
      [failure.reason, failure.replyId, failure.text],
      ["OWNER_LOST", stream.replyId, stream.text],
    );
    assert.match(failure.text, /^(word ){10,}$/);
    await all(survivor.streamReply(script({ text: "alive", delay_s: 0 })));
  } finally {
    await doomed[Symbol.asyncDispose]();
  }
});

test("the example compiles, runs and exits", async () => {
  const child = spawn(process.execPath, [join(ROOT, "build/examples/readme.js")], {
    env: { ...process.env, PARLEY_ADDRESS: parley.address },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const exited = once(child, "exit");
  const [output, errors] = await Promise.all(
    [child.stdout, child.stderr].map((input) => all(createInterface({ input }))),
  );
  assert.deepEqual([await exited, errors], [[0, null], []]);
  assert.match(output!.join("\n"), /STOP, \d+ tokens\nafter the third piece: /);
});
