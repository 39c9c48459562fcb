/** Story 3.2 over HTTP: the product and a real Parley server. Names of tests begin with the rows of docs/products.md. */

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { after, before, test } from "node:test";
import { KEY, MAIN, Stand, Product, allEvents, eventsOf, script, type Json } from "./stand.js";

let stand: Stand;
let product: Product;
before(async () => {
  stand = await Stand.start();
  product = await stand.startProduct({ CHAT_DEMO_LOGIN: "on", CHAT_PAGE: "/nowhere" });
});
after(async () => await stand[Symbol.asyncDispose]());

const STREAM = "/api/ai/chat/stream";

function ask(
  message: string,
  conversationId: string = randomUUID(),
  init: { user?: string } & RequestInit = {},
) {
  const { body: _, ...rest } = init;
  return product.fetch(STREAM, { ...rest, body: { conversationId, message } });
}

function textOf(events: Json[]): string {
  return events.map(({ content = "" }) => content).join("");
}

async function used(user: string): Promise<number> {
  const { quotas } = await product.json("/api/ai/quota", { user });
  return Number((quotas as Json[]).find(({ name }) => name === "tokens_per_day")?.["used"]);
}

test("S3.1 the question is stored before the answer, which is stored after the stream", async () => {
  const id = randomUUID();
  const question = script({ text: "one two", pauses: [{ after: 1, seconds: 3 }] });
  const events = eventsOf(await ask(question, id));
  await events.next();
  assert.deepEqual(await product.stored(id), [["user", question, false]]);
  for await (const _ of events);
  assert.deepEqual((await product.stored(id)).at(-1), ["assistant", "one two", false]);
});

test("S3.1 the model sees the last 10 messages", async () => {
  const id = randomUUID();
  await allEvents(await ask(script({ text: "a" }), id));
  const { context } = await stand.client.conversations.get(id);
  assert.equal(context?.maxMessages, 10);
});

test("S3.2 a quota that is used up is a 429 before the model is asked, and is consumed on success", async () => {
  const user = "rich";
  assert.equal(await used(user), 0);
  await allEvents(await ask(script({ text: "x" }), randomUUID(), { user }));
  const once = await used(user);
  assert.ok(once > 0);
  const fault = { kind: "error", reason: "PROVIDER_UNAVAILABLE" };
  await allEvents(await ask(script({ text: "x", fault }), randomUUID(), { user }));
  assert.equal(await used(user), once, "a reply that fails before its first token costs nothing");
  const id = randomUUID();
  const response = await ask("long ".repeat(6_000), id, { user });
  const { code, message } = (await response.json()) as Json;
  assert.deepEqual([response.status, code, typeof message], [429, "QUOTA_EXCEEDED", "string"]);
  assert.ok(Number(response.headers.get("retry-after")) >= 1);
  assert.deepEqual(await product.json(`/api/page/conversations/${id}/messages`, { user }), {
    messages: [],
    active_reply_id: null,
    next_page_token: null,
  });
});

test("S3.2 the quota has its limit and the time of its reset", async () => {
  const { quotas } = await product.json("/api/ai/quota");
  const { name, limit, reset_time } = (quotas as Json[])[0]!;
  assert.deepEqual([name, limit], ["tokens_per_day", 5_000]);
  assert.ok(Date.parse(String(reset_time)) > Date.now());
});

test("S3.3 the mock model types its answer", async () => {
  const events = await allEvents(
    await ask(script({ text: "abc def ghi", pieces: "character", delay_s: 0.03 })),
  );
  assert.ok(events.length > 5, `${events.length} events`);
  assert.equal(textOf(events), "abc def ghi");
});

test("S3.4 a partial answer is stored when the provider breaks", async () => {
  const id = randomUUID();
  const fault = { kind: "truncate", after: 2 };
  const events = await allEvents(await ask(script({ text: "a b c", delay_s: 0, fault }), id));
  const { type, message, code, retryable } = events.at(-1)!;
  assert.deepEqual([type, typeof message, code, retryable], ["error", "string", "PROVIDER_TRUNCATED", true]);
  assert.deepEqual((await product.stored(id)).at(-1), ["assistant", "a b ", true]);
});

test("S3.4 the answer is written to its end when the browser leaves", async () => {
  const id = randomUUID();
  const browser = new AbortController();
  const response = await ask(script({ text: "word ", repeat: 30, delay_s: 0.02 }), id, {
    signal: browser.signal,
  });
  await eventsOf(response).next();
  browser.abort();
  const rest = await allEvents(await product.fetch(`/api/page/conversations/${id}/stream`));
  assert.equal(rest.map(({ text = "" }) => text).join(""), "word ".repeat(30));
});

test("S3.5 events are chunks, then done", async () => {
  const key = { headers: { "idempotency-key": randomUUID() } };
  const id = randomUUID();
  const events = await allEvents(await ask(script({ text: "a 🙂", delay_s: 0.02 }), id, key));
  assert.deepEqual(
    [new Set(events.slice(0, -1).map(({ type }) => type)), events.at(-1), textOf(events)],
    [new Set(["chunk"]), { type: "done" }, "a 🙂"],
  );
  await allEvents(await ask(script({ text: "a 🙂", delay_s: 0.02 }), id, key));
  assert.equal((await product.stored(id)).length, 2, "a repeated request is one question");
});

test("S3.5 refusals are statuses with JSON", async () => {
  const id = randomUUID();
  await allEvents(await ask(script({ text: "x" }), id));
  const cases: [Promise<Response>, number, string][] = [
    [ask("Hi", id, { user: "ben" }), 404, "CONVERSATION_NOT_FOUND"],
    [ask("Hi", id, { user: "" }), 401, "UNAUTHENTICATED"],
    [ask(" \n", id), 400, "BAD_REQUEST"],
    [ask("Hi", "no id!"), 400, "INVALID_REQUEST"],
    [ask("x".repeat(300_000), id), 413, "TOO_LARGE"],
    [product.fetch(STREAM), 405, "METHOD_NOT_ALLOWED"],
    [product.fetch("/nothing"), 404, "NOT_FOUND"],
    [product.fetch("/"), 404, "NOT_FOUND"],
  ];
  for (const [request, status, code] of cases) {
    const response = await request;
    const body = (await response.json()) as Json;
    assert.deepEqual([response.status, body["code"]], [status, code]);
    assert.deepEqual(Object.keys(body).sort(), ["code", "error", "message", "retryable"]);
  }
});

test("anybody signs in with a name in a demo only", async () => {
  const login = (name: unknown) => product.fetch("/api/login", { user: "", body: { name } });
  const { token, expires_in } = (await (await login("ada")).json()) as Json;
  assert.equal(expires_in, 12 * 3_600);
  const headers = { authorization: `Bearer ${String(token)}` };
  assert.equal((await product.fetch("/api/page/conversations", { user: "", headers })).status, 200);
  for (const name of ["", "a b", "x".repeat(65), 7]) assert.equal((await login(name)).status, 400);
  assert.equal((await product.json("/api/page/config", { user: "" }))["login"], "demo");
  const closed = await stand.startProduct();
  assert.equal((await closed.fetch("/api/login", { body: { name: "ada" } })).status, 404);
  assert.equal((await closed.json("/api/page/config"))["login"], "token");
  assert.equal(await closed.terminate(), 0);
});

test("SIGTERM ends open streams without a last event, and then the process", async () => {
  const other = await stand.startProduct();
  const message = script({ text: "word ", repeat: 500, delay_s: 0.02 });
  const body = { conversationId: randomUUID(), message };
  const events = eventsOf(await other.fetch(STREAM, { body }));
  await events.next();
  assert.equal(await other.terminate(), 0);
  const rest = await allEvents(events);
  assert.ok(rest.every(({ type }) => type === "chunk"));
});

test("Parley is killed and started again while an answer is written", async () => {
  const id = randomUUID();
  const events = eventsOf(await ask(script({ text: "word ", repeat: 500, delay_s: 0.02 }), id));
  await events.next();
  await stand.killParley();
  await stand.startParley();
  assert.equal((await allEvents(events)).at(-1)?.["type"], "error");
  const [, [role, , partial] = []] = await product.stored(id);
  assert.deepEqual([role, partial], ["assistant", true]);
});

test("a key that is too short is refused at the start", async () => {
  for (const key of ["", KEY.slice(0, 31)]) {
    const child = spawn(process.execPath, [MAIN], {
      env: { ...process.env, CHAT_JWT_KEY: key, PORT: "0" },
    });
    const said: Buffer[] = [];
    child.stderr.on("data", (data: Buffer) => said.push(data));
    const [status] = (await once(child, "close")) as [number];
    assert.deepEqual(
      [status, Buffer.concat(said).toString()],
      [1, "CHAT_JWT_KEY must have at least 32 bytes\n"],
    );
  }
});
