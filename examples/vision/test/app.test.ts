/** The guide of 002 over HTTP: the product and a real Parley server. Names of tests begin with the rows of docs/products.md. */

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { after, before, test } from "node:test";
import { setTimeout } from "node:timers/promises";
import { Role } from "@parley/client/v1";
import { Stand, allEvents, eventsOf, script, type Json, type Product } from "./stand.js";

let stand: Stand;
let product: Product;
before(async () => {
  stand = await Stand.start();
  product = await stand.startProduct({ CHAT_DEMO_LOGIN: "on", CHAT_PAGE: "/nowhere" });
});
after(async () => await stand[Symbol.asyncDispose]());

const PIXEL =
  "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
const STREAM = "/api/ai/chat-image-stream";
const WHOLE = "/api/ai/chat-image";

/** Waits until nothing is written in a session. */
async function ended(sessionId: string): Promise<void> {
  const giveUpMs = performance.now() + 30_000;
  while ((await stand.client.conversations.get(sessionId)).activeReplyId) {
    assert.ok(performance.now() < giveUpMs, "the answer is still being written");
    await setTimeout(50);
  }
}

function bodyOf(prompt: string, fields: Json = {}): Json {
  const ids = { session_id: randomUUID(), student_id: "ada" };
  return { base64_image: PIXEL, prompt, subject: "Mathematics", ...ids, ...fields };
}

function ask(prompt: string, fields: Json = {}, init: RequestInit = {}, path = STREAM): Promise<Response> {
  const { body: _, ...rest } = init;
  return product.fetch(path, { ...rest, body: bodyOf(prompt, fields) });
}

/** The product's counters by name and labels. */
async function counts(): Promise<Record<string, number>> {
  const text = await (await product.fetch("/metrics", { user: "" })).text();
  const lines = text.split("\n").filter((line) => line && !line.startsWith("#"));
  return Object.fromEntries(lines.map((line) => [line.replace(/ \S+$/, ""), Number(line.split(" ").at(-1))]));
}

async function grown(before: Record<string, number>, name: string): Promise<number> {
  return ((await counts())[name] ?? 0) - (before[name] ?? 0);
}

test("S2.1 the image, the subject and the question are stored, under both addresses", async () => {
  for (const path of [STREAM, "/api/v1/chat-image-stream"]) {
    const session_id = randomUUID();
    const prompt = script({ text: "a dot" });
    await allEvents(await ask(prompt, { session_id }, {}, path));
    const { labels, system, endUser, title } = await stand.client.conversations.get(session_id);
    assert.deepEqual([labels, endUser, title], [{ subject: "Mathematics" }, "ada", prompt.slice(0, 60)]);
    assert.match(system.join("\n"), /tutor.*\nThe subject is Mathematics\./);
    const { messages } = await product.json(`/api/page/conversations/${session_id}/messages`);
    const [question] = messages as { text: string; images: Json[] }[];
    assert.deepEqual([question?.text, question?.images[0]?.["mime_type"]], [prompt, "image/png"]);
    const image = await product.fetch(`/api/page/images/${String(question?.images[0]?.["id"])}`);
    assert.equal(Buffer.from(await image.arrayBuffer()).toString("base64"), PIXEL);
  }
});

test("S2.1 a body of more than 3 MB is a 413 as JSON", async () => {
  for (const path of [STREAM, WHOLE]) {
    const response = await ask("Hi", { base64_image: "A".repeat(3 * 1024 * 1024) }, {}, path);
    const { code, message } = (await response.json()) as Json;
    assert.deepEqual([response.status, code, typeof message], [413, "TOO_LARGE", "string"]);
  }
  const large = Buffer.concat([Buffer.from(PIXEL, "base64"), Buffer.alloc(2_200_000)]).toString("base64");
  assert.equal((await ask(script({ text: "x" }), { base64_image: large })).status, 200);
});

test("S2.1 a question can follow without a further image, but not with a wrong one", async () => {
  const session_id = randomUUID();
  await allEvents(await ask(script({ text: "a dot" }), { session_id }));
  const events = await allEvents(
    await ask(script({ text: "grey" }), { session_id, base64_image: undefined }),
  );
  assert.equal(events.at(-1)?.["content"], "grey");
  for (const base64_image of ["", "no base64!", "AAAA", null, 7]) {
    const response = await ask("Hi", { base64_image });
    assert.deepEqual([response.status, ((await response.json()) as Json)["code"]], [400, "BAD_REQUEST"]);
  }
});

test("S2.1 a student asks only as the user of the token", async () => {
  for (const path of [STREAM, WHOLE]) {
    const foreign = await ask("Hi", { student_id: "ben" }, {}, path);
    assert.deepEqual([foreign.status, ((await foreign.json()) as Json)["code"]], [403, "FORBIDDEN"]);
    const nobody = await product.fetch(path, { user: "", body: bodyOf("Hi") });
    assert.equal(nobody.status, 401);
  }
  const session_id = randomUUID();
  await allEvents(await ask(script({ text: "x" }), { session_id }));
  const body = bodyOf("Hi", { session_id, student_id: "ben" });
  assert.equal((await product.fetch(STREAM, { user: "ben", body })).status, 404);
});

test("S2.2 events are start, content with all text so far, and end", async () => {
  const [start, ...rest] = await allEvents(await ask(script({ text: "This is 🙂", delay_s: 0.02 })));
  assert.deepEqual([start?.["type"], start?.["model"]], ["start", "scripted"]);
  assert.ok(Math.abs(Date.now() - Date.parse(String(start?.["timestamp"]))) < 60_000);
  const end = rest.pop()!;
  assert.ok(rest.length > 1);
  let shown = "";
  for (const { type, content, delta } of rest) {
    shown += String(delta);
    assert.deepEqual([type, content], ["content", shown]);
  }
  const { tokens, processing_time_ms, ...known } = end;
  assert.deepEqual(known, { type: "end", finish_reason: "stop", content: "This is 🙂", model: "scripted" });
  assert.ok(Number(tokens) > 0 && Number(processing_time_ms) >= 20);
});

test("S2.2 a failure is an error event with a sentence", async () => {
  const fault = { kind: "error", after: 1, reason: "PROVIDER_TRUNCATED" };
  const { type, error, code, retryable } = (await allEvents(await ask(script({ text: "a b", fault })))).at(
    -1,
  )!;
  assert.deepEqual([type, code, retryable], ["error", "PROVIDER_TRUNCATED", true]);
  assert.ok(String(error).includes(" "));
});

test("S2.3 a browser that leaves ends the answer", async () => {
  const session_id = randomUUID();
  const browser = new AbortController();
  const endless = script({ text: "word ", repeat: 10_000, delay_s: 0.02 });
  const events = eventsOf(await ask(endless, { session_id }, { signal: browser.signal }));
  while ((await events.next()).value?.["type"] !== "content");
  browser.abort();
  await ended(session_id);
  const [answer] = (await stand.client.conversations.messagePages(session_id).next()).value!.messages;
  assert.deepEqual([answer?.role, answer?.partial], [Role.ASSISTANT, true]);
});

test("S2.3 the plain answer has the same content, and a repeated request is not a second question", async () => {
  const session_id = randomUUID();
  const key = { headers: { "idempotency-key": randomUUID() } };
  const prompt = script({ text: "a dot", delay_s: 0.02 });
  await allEvents(await ask(prompt, { session_id }, key));
  for (const path of [WHOLE, "/api/v1/chat-image"]) {
    const response = await ask(prompt, { session_id }, key, path);
    const { tokens, processing_time_ms, ...known } = (await response.json()) as Json;
    assert.deepEqual(known, { finish_reason: "stop", content: "a dot", model: "scripted" });
    assert.ok(Number(tokens) > 0 && Number(processing_time_ms) >= 0);
  }
  assert.equal((await product.stored(session_id)).length, 2);
  const fault = { kind: "error", reason: "PROVIDER_UNAVAILABLE" };
  const failed = await ask(script({ text: "x", fault }), {}, {}, WHOLE);
  const { code, retryable } = (await failed.json()) as Json;
  assert.deepEqual([failed.status, code, retryable], [502, "PROVIDER_UNAVAILABLE", true]);
});

test("S2.3 faults of the request are statuses with JSON", async () => {
  const cases: [Promise<Response>, number, string][] = [
    [ask(" \n"), 400, "BAD_REQUEST"],
    [ask("Hi", { session_id: "no id!" }), 400, "INVALID_REQUEST"],
    [ask("Hi", { student_id: undefined }), 400, "BAD_REQUEST"],
    [product.fetch(STREAM), 405, "METHOD_NOT_ALLOWED"],
    [product.fetch("/nothing"), 404, "NOT_FOUND"],
    [product.fetch("/"), 404, "NOT_FOUND"],
    [product.fetch("/%zz"), 400, "BAD_REQUEST"],
    [
      fetch(product.url + STREAM, { method: "POST", body: "x", headers: { "content-type": "text/xml" } }),
      415,
      "UNSUPPORTED_MEDIA_TYPE",
    ],
  ];
  for (const [request, status, code] of cases) {
    const response = await request;
    const body = (await response.json()) as Json;
    assert.deepEqual([response.status, body["code"]], [status, code]);
    assert.deepEqual(Object.keys(body).sort(), ["code", "error", "message", "retryable"]);
  }
});

test("S2.4 starts, ends, errors by type, disconnects, fallbacks and durations are counted", async () => {
  const before = await counts();
  await allEvents(await ask(script({ text: "x" })));
  await ask(script({ text: "x" }), {}, {}, WHOLE);
  await allEvents(await ask(script({ text: "x", fault: { kind: "error", reason: "PROVIDER_REJECTED" } })));
  await ask("Hi", { student_id: "ben" });
  const browser = new AbortController();
  const events = eventsOf(
    await ask(script({ text: "word ", repeat: 500, delay_s: 0.02 }), {}, { signal: browser.signal }),
  );
  await events.next();
  browser.abort();
  while ((await grown(before, "chat_stream_disconnects_total")) < 1) await setTimeout(20);
  assert.equal(await grown(before, "chat_stream_starts_total"), 3);
  assert.equal(await grown(before, 'chat_stream_ends_total{finish_reason="stop"}'), 1);
  assert.equal(await grown(before, 'chat_stream_errors_total{code="PROVIDER_REJECTED"}'), 1);
  assert.equal(await grown(before, 'chat_stream_errors_total{code="FORBIDDEN"}'), 1);
  assert.equal(await grown(before, "chat_fallbacks_total"), 1);
  assert.equal(await grown(before, "chat_stream_duration_seconds_count"), 3);
});

test("S2.3 an answer that is tried again also ends when the browser leaves", async () => {
  const session_id = randomUUID();
  const path = `/api/page/conversations/${session_id}`;
  const events = eventsOf(
    await ask(script({ text: "word ", repeat: 10_000, delay_s: 0.02 }), { session_id }),
  );
  while ((await events.next()).value?.["type"] !== "content");
  assert.deepEqual(await product.json(`${path}/stop`, { body: {} }), { status: "cancelled" });
  assert.equal((await allEvents(events)).at(-1)?.["finish_reason"], "cancelled");
  const { messages } = await product.json(`${path}/messages`);
  const body = { replace_message_id: (messages as Json[]).at(-1)!["id"] };
  const browser = new AbortController();
  const again = eventsOf(await product.fetch(`${path}/retry`, { body, signal: browser.signal }));
  while ((await again.next()).value?.["type"] !== "text");
  browser.abort();
  await ended(session_id);
});

test("SIGTERM ends open streams without a last event, and then the process", async () => {
  const other = await stand.startProduct();
  const events = eventsOf(
    await other.fetch(STREAM, { body: bodyOf(script({ text: "word ", repeat: 500, delay_s: 0.02 })) }),
  );
  await events.next();
  assert.equal(await other.terminate(), 0);
  assert.ok((await allEvents(events)).every(({ type }) => type === "content"));
});
