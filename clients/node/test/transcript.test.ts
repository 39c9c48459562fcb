import assert from "node:assert/strict";
import { test } from "node:test";
import { create, fromBinary } from "@bufbuild/protobuf";
import { Transcript } from "../src/transcript.js";
import { ReplySchema, TokenChunkSchema, UsageSchema, type FinishReason, type TokenChunk } from "../src/v1.js";
import { accepted, chunk, failed, finished, replyError, snapshot, text, texts } from "./scripted.js";

/** A random generator with a seed, which a failing test reports (mulberry32). */
function chances(seed: number): (below: number) => number {
  return (below) => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) % below;
  };
}

/** A possible delivery of a log over many calls: cut, merged, repeated, replaced by snapshots. */
function delivery(log: TokenChunk[], whole: string[], chance: (below: number) => number): TokenChunk[] {
  const sent: TokenChunk[] = [];
  let cursor = 0;
  while (cursor < log.length) {
    sent.push(accepted(cursor));
    let end = cursor + 1 + chance(log.length - cursor);
    if (cursor > 0 && chance(3) === 0) sent.push(snapshot(++cursor, whole.slice(0, cursor).join("")));
    end = Math.max(end, cursor);
    while (cursor < end) {
      const merged = 1 + chance(end - cursor);
      cursor += merged;
      sent.push(text(cursor, whole.slice(cursor - merged, cursor).join("")));
    }
    if (chance(2)) sent.push(chunk(cursor, { case: "heartbeat", value: {} }));
    for (let again = chance(3); again > 0; again--) sent.push(log[chance(cursor)]!);
  }
  const done = finished(log.length + 1);
  return [...sent, done, done, log[chance(log.length)]!];
}

test("the text is exact for every delivery", () => {
  for (let seed = 0; seed < 500; seed++) {
    const chance = chances(seed);
    const pieces = Array.from({ length: 1 + chance(12) }, () => ["a", "🙂", "é", "👩‍🚀", "\n"][chance(5)]!);
    const transcript = new Transcript();
    let shown = "";
    const ends: string[] = [];
    for (const sent of delivery(texts(...pieces), pieces, chance)) {
      const event = transcript.apply(sent);
      if (event?.type === "text") shown += event.text;
      if (event?.type === "snapshot") shown = event.text;
      if (event?.type === "finished") ends.push(event.text);
    }
    const whole = pieces.join("");
    assert.deepEqual([shown, transcript.text, ends], [whole, whole, [whole]], `seed ${seed}`);
  }
});

test("the events of a complete log", () => {
  const transcript = new Transcript();
  const usage = create(UsageSchema, { promptTokens: 3 });
  const events = [
    accepted(),
    chunk(1, { case: "reasoning", value: { text: "hm" } }),
    text(2, "He"),
    chunk(3, { case: "toolCall", value: { index: 0, id: "c1", name: "f", arguments: "{" } }),
    chunk(4, { case: "toolCall", value: { index: 0, arguments: "}" } }),
    chunk(5, { case: "usage", value: usage }),
    finished(6),
  ].map((sent) => transcript.apply(sent));
  assert.deepEqual(events, [
    {
      type: "accepted",
      replyId: "reply-1",
      conversationId: "conversation-1",
      messageId: "message-2",
      inputMessageIds: ["message-1"],
      model: "scripted",
      replayed: false,
      ignoredSettings: ["seed"],
      quota: undefined,
    },
    { type: "reasoning", text: "hm" },
    { type: "text", text: "He" },
    { type: "toolCall", index: 0, id: "c1", name: "f", arguments: "{" },
    { type: "toolCall", index: 0, id: "", name: "", arguments: "}" },
    { type: "usage", usage },
    {
      type: "finished",
      reason: "STOP",
      text: "He",
      model: "spare",
      provider: "typewriter",
      cancelReason: "",
      usage: create(UsageSchema, { promptTokens: 3, completionTokens: 5 }),
    },
  ]);
  assert.deepEqual(transcript.toolCalls, [{ index: 0, id: "c1", name: "f", arguments: "{}" }]);
});

test("heartbeats and go_away do not move the cursor", () => {
  const transcript = new Transcript();
  transcript.apply(accepted(7));
  transcript.apply(chunk(9, { case: "goAway", value: {} }));
  assert.equal(transcript.sequence, 0);
  assert.deepEqual(transcript.apply(text(1, "a")), { type: "text", text: "a" });
});

test("an unknown event is skipped and moves the cursor", () => {
  // sequence 5, field 100
  const unknown = fromBinary(TokenChunkSchema, Buffer.from("\x10\x05\xa2\x06\x03abc", "latin1"));
  const transcript = new Transcript();
  assert.equal(transcript.apply(unknown), undefined);
  assert.equal(transcript.sequence, 5);
});

test("a snapshot replaces text and tool calls", () => {
  const transcript = new Transcript();
  transcript.apply(text(3, "lost"));
  const reply = create(ReplySchema, {
    message: {
      parts: [
        { content: { case: "reasoning", value: { text: "hidden" } } },
        { content: { case: "text", value: "kept" } },
        { content: { case: "toolCall", value: { id: "c", name: "f", arguments: "{}" } } },
      ],
    },
  });
  const event = transcript.apply(chunk(65_539, { case: "snapshot", value: reply }));
  assert.deepEqual(event, { type: "snapshot", text: "kept", reply });
  assert.deepEqual(transcript.toolCalls, [{ index: 0, id: "c", name: "f", arguments: "{}" }]);
  assert.equal(transcript.sequence, 65_539);
});

test("an old snapshot does not replace newer text", () => {
  const transcript = new Transcript();
  for (const sent of [snapshot(2, "ab"), text(3, "c"), snapshot(2, "ab")]) transcript.apply(sent);
  assert.equal(transcript.text, "abc");
});

test("a snapshot at the cursor replaces the text", () => {
  const transcript = new Transcript();
  for (const sent of [text(1, "a"), text(2, "lost"), snapshot(2, "kept")]) transcript.apply(sent);
  assert.deepEqual([transcript.text, transcript.sequence], ["kept", 2]);
});

test("a failure has the partial text", () => {
  const transcript = new Transcript();
  const error = replyError("ABORTED", "PROVIDER_TIMEOUT", { retryable: true });
  for (const sent of [accepted(), text(1, "half"), failed(2, error), failed(2, error), finished(3)]) {
    transcript.apply(sent);
  }
  const { failure } = transcript;
  assert.equal(transcript.finished, undefined);
  assert.deepEqual(
    [failure?.reason, failure?.text, failure?.retryable, failure?.replyId, failure?.messageId],
    ["PROVIDER_TIMEOUT", "half", true, "reply-1", "message-2"],
  );
  assert.deepEqual([failure?.model, failure?.provider], ["spare", "typewriter"]);
});

test("a terminal chunk at the cursor is not dropped", () => {
  const event = new Transcript("reply-1", 6).apply(finished(6));
  assert.equal(event?.type === "finished" && event.reason, "STOP");
});

test("an unknown finish reason is OTHER", () => {
  const event = new Transcript().apply(finished(1, 77 as FinishReason));
  assert.equal(event?.type === "finished" && event.reason, "OTHER");
});
