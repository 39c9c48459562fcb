/** The adapters in a small product on Express and on Fastify, over HTTP, with a real Parley server. */

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { after, before, describe, test } from "node:test";
import { setTimeout } from "node:timers/promises";
import { Parley, script } from "./parley.js";
import { App, CONFIG, allEvents, eventsOf, type Framework, type Json } from "./web-apps.js";

let parley: Parley;
before(async () => (parley = await Parley.start()));
after(async () => await parley[Symbol.asyncDispose]());

for (const framework of ["express", "fastify"] as const) describe(framework, () => suite(framework));

function suite(framework: Framework): void {
  let app: App;
  before(async () => (app = await App.start(framework, parley.address)));
  after(async () => await app[Symbol.asyncDispose]());

  const ask = (fields: Json, id: string = randomUUID(), init = {}) =>
    app.post("/ask", { id, text: script(fields) }, init);
  const page = (id: string, rest: string, init: Parameters<App["fetch"]>[1] = {}) =>
    app.fetch(`/api/page/conversations/${id}${rest}`, init);
  const json = async (response: Promise<Response>) => (await (await response).json()) as Json;
  /** An answer that is written until it is stopped; returns when it has begun. */
  const endless = async (id: string) => {
    const response = await ask({ text: "word ", repeat: 10_000, delay_s: 0.02 }, id);
    const events = eventsOf(response);
    for await (const event of { [Symbol.asyncIterator]: () => ({ next: () => events.next() }) }) {
      if (event["type"] === "chunk") return events;
    }
    throw new Error("no text came");
  };

  test("a reply streams as events, and a repeated request gets the same reply", async () => {
    const id = randomUUID();
    const init = { headers: { "idempotency-key": randomUUID() } };
    const response = await ask({ text: "a 🙂 c", delay_s: 0.01 }, id, init);
    assert.equal(response.headers.get("content-type"), "text/event-stream; charset=utf-8");
    assert.equal(response.headers.get("cache-control"), "no-cache");
    assert.equal(response.headers.get("x-accel-buffering"), "no");
    const events = await allEvents(response);
    assert.deepEqual(events[0], { type: "start", conversationId: id });
    assert.deepEqual(events.at(-1), { type: "done", reason: "STOP" });
    assert.equal(events.map(({ content = "" }) => content).join(""), "a 🙂 c");
    await allEvents(await ask({ text: "a 🙂 c", delay_s: 0.01 }, id, init));
    const { messages } = await json(page(id, "/messages"));
    assert.equal((messages as Json[]).length, 2);
  });

  test("a reply is sent whole to a browser that cannot stream, or its failure as a status", async () => {
    const whole = (fields: Json) => app.post("/whole", { id: randomUUID(), text: script(fields) });
    assert.deepEqual(await json(whole({ text: "a b", delay_s: 0.01 })), { text: "a b", reason: "STOP" });
    const failed = await whole({
      text: "a b",
      fault: { kind: "error", after: 1, reason: "PROVIDER_TRUNCATED" },
    });
    assert.deepEqual([failed.status, ((await failed.json()) as Json)["code"]], [502, "PROVIDER_TRUNCATED"]);
  });

  test("a failed reply ends with an error event", async () => {
    const fault = { kind: "error", after: 2, reason: "PROVIDER_TRUNCATED" };
    const events = await allEvents(await ask({ text: "a b c", delay_s: 0, fault }));
    const { type, code, error } = events.at(-1)!;
    assert.deepEqual([type, code, typeof error], ["error", "PROVIDER_TRUNCATED", "string"]);
  });

  test("refusals and faults are statuses with the same JSON, and show no detail", async () => {
    const id = randomUUID();
    const running = await endless(id);
    const refused: [Promise<Response>, number, string][] = [
      [app.post("/ask", { id: randomUUID(), text: "" }), 400, "INVALID_REQUEST"],
      [app.post("/ask", { id, text: "again" }), 409, "REPLY_IN_PROGRESS"],
      [app.post("/ask", { id, text: "x" }, { user: "ben" }), 404, "CONVERSATION_NOT_FOUND"],
      [app.post("/ask", { id, text: "x" }, { user: "" }), 401, "UNAUTHENTICATED"],
      [app.fetch("/ask", { method: "POST", body: "{" }), 400, "BAD_REQUEST"],
      [app.post("/ask", { id, text: "x".repeat(9_000_000) }), 413, "TOO_LARGE"],
      [app.fetch("/nothing/here"), 404, "NOT_FOUND"],
      [app.fetch("/api/page/nothing"), 404, "NOT_FOUND"],
      [page(id, "/stop"), 405, "METHOD_NOT_ALLOWED"],
      [app.fetch("/api/page/conversations", { user: "" }), 401, "UNAUTHENTICATED"],
      [page("missing", ""), 404, "CONVERSATION_NOT_FOUND"],
      [page("%zz", ""), 400, "BAD_REQUEST"],
      [page(id, "/retry", { method: "POST", body: "{}" }), 400, "BAD_REQUEST"],
      [page(id, "/retry", { method: "POST", body: '{"replace_message_id":"x"}' }), 404, "MESSAGE_NOT_FOUND"],
      ...["[]", "null", '{"request_id":7}', '{"x":1e999}'].map(
        (body) =>
          [page(id, "/stop", { method: "POST", body }), 400, "BAD_REQUEST"] as [
            Promise<Response>,
            number,
            string,
          ],
      ),
      [app.fetch("/api/page/images/missing"), 404, "IMAGE_NOT_FOUND"],
      [app.fetch("/defect"), 500, "INTERNAL"],
    ];
    for (const [request, status, code] of refused) {
      const response = await request;
      const body = (await response.json()) as Json;
      assert.deepEqual([response.status, body["code"]], [status, code], JSON.stringify(body));
      assert.match(response.headers.get("content-type")!, /^application\/json/);
      assert.deepEqual(Object.keys(body).sort(), ["code", "error", "message", "retryable"]);
      assert.equal(body["message"], body["error"]);
      assert.doesNotMatch(JSON.stringify(body), /secret|home|node_modules|\bat \w+ \(/);
    }
    await page(id, "/stop", { method: "POST" });
    for await (const _ of running);
  });

  test("the configuration needs no user", async () => {
    assert.deepEqual(await json(app.fetch("/api/page/config", { user: "" })), CONFIG);
  });

  test("conversations are listed, read and deleted, each user's own", async () => {
    const user = `user-${randomUUID()}`.replaceAll("-", "");
    const ids = [randomUUID(), randomUUID()];
    for (const id of ids) await allEvents(await ask({ text: "x" }, id, { user }));
    const { conversations, next_page_token } = await json(app.fetch("/api/page/conversations", { user }));
    assert.deepEqual(
      [(conversations as Json[]).map(({ id }) => id), next_page_token],
      [ids.toReversed(), null],
    );
    const one = await json(page(ids[0]!, "", { user }));
    assert.deepEqual(Object.keys(one), ["id", "title", "create_time", "update_time", "active_reply_id"]);
    assert.match(String(one["create_time"]), /^\d{4}-\d\d-\d\dT.*Z$/);
    assert.equal(one["title"], script({ text: "x" }).slice(0, 60));
    assert.equal((await page(ids[0]!, "", { method: "DELETE", user: "ben" })).status, 404);
    assert.equal((await page(ids[0]!, "", { method: "DELETE", user })).status, 204);
    assert.equal((await page(ids[0]!, "", { user })).status, 404);
  });

  test("messages come oldest first, with the replies that wrote them or failed before their first token", async () => {
    const id = randomUUID();
    await allEvents(await ask({ text: "one" }, id));
    await allEvents(await ask({ text: "two", fault: { kind: "error", reason: "PROVIDER_REJECTED" } }, id));
    const { messages, active_reply_id, next_page_token } = await json(page(id, "/messages"));
    const found = messages as (Json & { reply: Json | null })[];
    assert.deepEqual(
      found.map(({ role, text, partial, reply }) => [
        role,
        role === "user" || text,
        partial,
        reply?.["state"],
      ]),
      [
        ["user", true, false, undefined],
        ["assistant", "one", false, "completed"],
        ["user", true, false, undefined],
        ["assistant", "", true, "failed"],
      ],
    );
    const { id: replyId, input_tokens: input, output_tokens: output, cost_usd, ...rest } = found[1]!.reply!;
    assert.equal(typeof replyId, "string");
    assert.deepEqual(rest, { state: "completed", model: "scripted", finish_reason: "STOP", error: null });
    assert.equal(Math.round(Number(cost_usd) * 1e6), Number(input) * 2 + Number(output) * 8);
    const { error, finish_reason } = found[3]!.reply!;
    assert.deepEqual([(error as Json)["code"], finish_reason], ["PROVIDER_REJECTED", null]);
    assert.deepEqual([active_reply_id, next_page_token], [null, null]);
    // The reserved message of the failed reply is what a new attempt replaces, with the product's settings.
    const body = JSON.stringify({ replace_message_id: found[3]!["id"] });
    const retried = await allEvents(await page(id, "/retry", { method: "POST", body }));
    assert.deepEqual([retried[0]?.["type"], retried.at(-1)?.["code"]], ["reply", "PROVIDER_REJECTED"]);
    const reply = await app.client.getReply(String(retried[0]?.["reply_id"]));
    assert.deepEqual(reply.labels, { retried: id });
  });

  test("older messages are on the next page", async () => {
    const id = randomUUID();
    const ben = app.client.actingFor("ben");
    const messages = Array.from({ length: 51 }, (_, i) => ({
      role: 1 + (i % 2),
      parts: [{ content: { case: "text" as const, value: String(i) } }],
    }));
    await ben.conversations.create({ id }, { messages });
    const first = await json(page(id, "/messages", { user: "ben" }));
    const token = encodeURIComponent(String(first["next_page_token"]));
    const second = await json(page(id, `/messages?page_token=${token}`, { user: "ben" }));
    const texts = [second, first].flatMap((found) =>
      (found["messages"] as Json[]).map(({ text }) => Number(text)),
    );
    assert.deepEqual(
      texts,
      messages.map((_, i) => i),
    );
    assert.equal((second["messages"] as Json[]).length, 1);
    assert.equal((await page(id, "/messages?page_token=x", { user: "ben" })).status, 400);
  });

  test("a page attaches to a running reply from the start, or after what it has", async () => {
    const id = randomUUID();
    const running = await endless(id);
    const { active_reply_id: replyId, messages } = await json(page(id, "/messages"));
    assert.equal((messages as Json[]).length, 1);
    const attach = async (query: string) => {
      const found: Json[] = [];
      for await (const event of eventsOf(await page(id, `/stream?${query}`))) {
        found.push(event);
        if (event["type"] === "text") return found;
      }
      return found;
    };
    const [reply, text] = await attach("");
    assert.deepEqual([reply?.["type"], reply?.["reply_id"], reply?.["after"]], ["reply", replyId, 0]);
    const { sequence } = text!;
    assert.ok(Number(sequence) > 0 && String(text!["text"]).startsWith("word "));
    const [later, next] = await attach(`reply_id=${replyId}&after=${sequence}`);
    assert.deepEqual([later?.["after"], Number(next?.["sequence"]) > Number(sequence)], [sequence, true]);
    assert.equal((await attach(`reply_id=other&after=${sequence}`))[0]?.["after"], 0);
    assert.equal((await page(id, "/stream?reply_id=x&after=-1")).status, 200);
    assert.equal((await page(id, `/stream?reply_id=${replyId}&after=-1`)).status, 400);

    const watching = allEvents(await page(id, "/stream"));
    assert.deepEqual(await json(page(id, "/stop", { method: "POST", body: "{}" })), { status: "cancelled" });
    const { type, reason, cancel_reason } = (await watching).at(-1)!;
    assert.deepEqual([type, reason, cancel_reason], ["finished", "CANCELLED", "stopped by the user"]);
    for await (const _ of running);
    assert.equal((await page(id, "/stream")).status, 204);
    assert.equal((await page(id, `/stream?reply_id=${replyId}&after=3`)).status, 204);
    const { messages: stored } = await json(page(id, "/messages"));
    assert.deepEqual([(stored as Json[])[1]?.["partial"], (stored as Json[]).length], [true, 2]);
  });

  test("stop by request works before, during and after the reply", async () => {
    const id = randomUUID();
    const key = randomUUID();
    const stop = (request_id?: string) =>
      page(id, "/stop", { method: "POST", body: JSON.stringify({ request_id }) });
    const early = await stop(key);
    assert.deepEqual([early.status, await early.json()], [202, { status: "cancelled" }]);
    const init = { headers: { "idempotency-key": key } };
    const events = await allEvents(await ask({ text: "never shown" }, id, init));
    assert.deepEqual(events.at(-1), { type: "done", reason: "CANCELLED" });
    const other = randomUUID();
    await allEvents(await ask({ text: "whole" }, id, { headers: { "idempotency-key": other } }));
    assert.deepEqual(await json(stop(other)), { status: "already_finished" });
    assert.equal((await stop()).status, 409);
  });

  test("images come with the headers that keep them from running", async () => {
    const id = randomUUID();
    const data = Buffer.from(
      "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==",
      "base64",
    );
    const ada = app.client.actingFor("ada");
    for await (const _ of ada.streamReply({ newConversation: { id }, text: "x", images: [data] }));
    const { messages } = await json(page(id, "/messages"));
    const [image] = (messages as { images: Json[] }[])[0]!.images;
    assert.equal(image?.["mime_type"], "image/png");
    const response = await app.fetch(`/api/page/images/${String(image?.["id"])}`);
    assert.deepEqual(Buffer.from(await response.arrayBuffer()), data);
    assert.deepEqual(
      ["content-type", "x-content-type-options", "cache-control", "content-security-policy"].map((name) =>
        response.headers.get(name),
      ),
      ["image/png", "nosniff", "private, max-age=31536000, immutable", "sandbox"],
    );
    assert.equal((await app.fetch(`/api/page/images/${String(image?.["id"])}`, { user: "ben" })).status, 404);
  });

  test("the page is served with a policy that allows only its own scripts", async () => {
    for (const path of ["/", "/c/abc-1", "/?x=1"]) {
      const response = await app.fetch(path, { user: "" });
      assert.match(await response.text(), /<title>Chat/);
      assert.match(
        response.headers.get("content-security-policy")!,
        /script-src 'self'; .*frame-ancestors 'none'/,
      );
      assert.deepEqual(
        ["x-content-type-options", "referrer-policy", "cache-control"].map((name) =>
          response.headers.get(name),
        ),
        ["nosniff", "no-referrer", "no-cache"],
      );
    }
    const asset = await app.fetch("/assets/app-1a2b.js");
    assert.deepEqual(
      [asset.headers.get("cache-control"), asset.headers.get("content-type")],
      ["public, max-age=31536000, immutable", "text/javascript; charset=utf-8"],
    );
    assert.equal((await app.fetch("/favicon.svg")).headers.get("content-type"), "image/svg+xml");
    for (const path of [
      "/.env",
      "/%2e%2e/secret.txt",
      "/..%2fsecret.txt",
      "/assets",
      "/c/a/b",
      "/assets/../../secret.txt",
    ]) {
      assert.equal((await app.fetch(path)).status, 404, path);
    }
  });

  test("without a built page, the routes work and the page says how to build it", async () => {
    await using bare = await App.start(framework, parley.address, { page: "/nowhere" });
    const { code, message } = await json(bare.fetch("/"));
    assert.deepEqual([code, /npm run build/.test(String(message))], ["NOT_FOUND", true]);
    assert.doesNotMatch(String(message), /nowhere/);
    assert.equal((await bare.fetch("/api/page/conversations")).status, 200);
  });

  test("silence is filled with comments", async () => {
    await using patient = await App.start(framework, parley.address, { keepAliveMs: 50 });
    const text = script({ text: "a b", delay_s: 0.4 });
    const events = await allEvents(await patient.post("/ask", { id: randomUUID(), text }));
    assert.ok(events.filter(({ comment }) => comment === ": alive").length >= 3);
    assert.equal(events.map(({ content = "" }) => content).join(""), "a b");
  });

  test("when the browser leaves, the call ends and the reply continues", async () => {
    const id = randomUUID();
    const browser = new AbortController();
    const response = await ask({ text: "word ", repeat: 40, delay_s: 0.02 }, id, { signal: browser.signal });
    await eventsOf(response).next();
    browser.abort();
    while (app.ends.at(-1)?.type !== "left") await setTimeout(10);
    const rest = await allEvents(await page(id, "/stream"));
    assert.equal(rest.at(-1)?.["reason"], "STOP");
    assert.equal(rest.map(({ text = "" }) => text).join(""), "word ".repeat(40));
  });

  test("a shutdown ends streams without a last event, and the reply continues", async () => {
    const id = randomUUID();
    const other = await App.start(framework, parley.address);
    const text = script({ text: "word ", repeat: 40, delay_s: 0.02 });
    const response = await other.post("/ask", { id, text });
    const events = eventsOf(response);
    await events.next();
    await other.shutDown();
    const rest: Json[] = [];
    for await (const event of events) rest.push(event);
    assert.ok(rest.every(({ type }) => type === "chunk"));
    assert.deepEqual(other.ends, [{ type: "cut" }]);
    await assert.rejects(other.fetch("/api/page/config"));
    assert.equal((await allEvents(await page(id, "/stream"))).at(-1)?.["reason"], "STOP");
    await other[Symbol.asyncDispose]();
  });
}
