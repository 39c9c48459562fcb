/** What a browser gets of a reply whose text is replaced, whose reader is slow, or whose server is lost. */

import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { connect } from "node:net";
import { test } from "node:test";
import { setTimeout } from "node:timers/promises";
import {
  Abort,
  HANG,
  Scripted,
  accepted,
  failed,
  finished,
  refusal,
  replyError,
  snapshot,
  text,
  type Step,
} from "./scripted.js";
import { App, EVENTS, allEvents, eventsOf, type Framework, type Json } from "./web-apps.js";
import { sendReply } from "../src/express.js";
import type { Accepted, ClientOptions } from "../src/index.js";

const QUICK: ClientOptions = { backoff: { firstMs: 1, maxMs: 10, maxElapsedMs: 200 } };
const QUESTION = { id: "conversation-1", text: "Hi" };
const START = { type: "start", conversationId: "conversation-1" };
const DONE = { type: "done", reason: "STOP" };
const REPLACED = {
  type: "error",
  error: "Part of this answer was replaced on the server. Reload the conversation to read it.",
  code: "TEXT_REPLACED",
  retryable: false,
};

function scripted(
  name: string,
  body: (server: Scripted, app: App, framework: Framework) => Promise<void>,
): void {
  for (const framework of ["express", "fastify"] as const) {
    test(`${framework}: ${name}`, async () => {
      await using server = await Scripted.start();
      server.unary["CreateConversation"] = [QUESTION];
      await using app = await App.start(framework, server.address, {}, QUICK);
      await body(server, app, framework);
    });
  }
}

async function answer(server: Scripted, app: App, ...steps: Step[]): Promise<Json[]> {
  server.scripts.push([accepted(), ...steps]);
  return await allEvents(await app.post("/ask", QUESTION));
}

function chunks(...contents: string[]): Json[] {
  return contents.map((content) => ({ type: "chunk", content }));
}

scripted("a snapshot that begins with what was sent adds the rest", async (server, app) => {
  const events = await answer(server, app, text(1, "Hel"), snapshot(3, "Hello"), text(4, "!"), finished(5));
  assert.deepEqual(events, [START, ...chunks("Hel", "lo", "!"), DONE]);
});

scripted(
  "a snapshot that replaces what was sent ends in an error, without more text",
  async (server, app) => {
    const end = { ...REPLACED };
    const events = await answer(
      server,
      app,
      text(1, "Hel"),
      snapshot(3, "Good"),
      text(4, "bye"),
      finished(5),
    );
    assert.deepEqual(events, [START, ...chunks("Hel"), end]);
    assert.equal(app.ends[0]?.type, "failed");
    const error = replyError("ABORTED", "OWNER_LOST", { retryable: true });
    const also = await answer(server, app, text(1, "Hel"), snapshot(3, "Good"), failed(4, error));
    assert.deepEqual(also, [START, ...chunks("Hel"), end]);
  },
);

scripted("text that was lost and written again is not sent twice", async (server, app) => {
  const events = await answer(server, app, text(1, "Hello"), snapshot(3, "Hel"), text(4, "lo!"), finished(5));
  assert.deepEqual(events, [START, ...chunks("Hello", "!"), DONE]);
  const error = replyError("ABORTED", "OWNER_LOST", { retryable: true });
  const lost = await answer(server, app, text(1, "Hello"), snapshot(3, "Hel"), failed(4, error));
  assert.deepEqual(lost.at(-1), REPLACED);
});

scripted(
  "a page gets snapshots and waiting, and its failure has the message to replace",
  async (server, app) => {
    server.unary["GetConversation"] = [{ id: "conversation-1", activeReplyId: "reply-1" }];
    const error = replyError("ABORTED", "PROVIDER_RATE_LIMITED", { retryable: true, retryAfterMs: 1_500 });
    server.scripts.push([accepted(), text(1, "Hel"), new Abort("UNAVAILABLE")]);
    server.scripts.push([accepted(1), snapshot(3, "Good"), failed(4, error)]);
    const events = await allEvents(await app.fetch("/api/page/conversations/conversation-1/stream"));
    const [waiting] = events.splice(2, 1);
    assert.deepEqual(
      [waiting?.["type"], waiting?.["attempt"], typeof waiting?.["delay_ms"]],
      ["waiting", 1, "number"],
    );
    const message = "as scripted";
    assert.deepEqual(events, [
      { type: "reply", reply_id: "reply-1", message_id: "message-2", after: 0 },
      { type: "text", text: "Hel", sequence: 1 },
      { type: "snapshot", text: "Good", sequence: 3 },
      {
        type: "failed",
        message,
        error: message,
        code: "PROVIDER_RATE_LIMITED",
        retryable: true,
        retry_after_s: 1.5,
        message_id: "message-2",
      },
    ]);
  },
);

scripted(
  "a server that is lost for good is an error on the product's wire, and no end for a page",
  async (server, app) => {
    server.unary["GetConversation"] = [{ id: "conversation-1", activeReplyId: "reply-1" }];
    const lose = () =>
      server.scripts.push(
        [accepted(), text(1, "Hel"), new Abort("UNAVAILABLE")],
        ...Array.from({ length: 99 }, () => [new Abort("UNAVAILABLE")]),
      );
    lose();
    const { code, retryable, error } = (await allEvents(await app.post("/ask", QUESTION))).at(-1)!;
    assert.deepEqual([code, retryable], ["UNAVAILABLE", true]);
    assert.match(String(error), /^The chat service cannot be reached/);
    server.scripts.length = 0;
    lose();
    const events = await allEvents(await app.fetch("/api/page/conversations/conversation-1/stream"));
    assert.deepEqual(new Set(events.map(({ type }) => type)), new Set(["reply", "text", "waiting"]));
  },
);

scripted("refusals before the first event are statuses", async (server, app) => {
  const cases: [Abort, number, string, string | null][] = [
    [refusal("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED", { retryAfterMs: 61_001 }), 429, "QUOTA_EXCEEDED", "62"],
    [
      refusal("RESOURCE_EXHAUSTED", "RATE_LIMITED", { retryable: true, retryAfterMs: 50 }),
      429,
      "RATE_LIMITED",
      "1",
    ],
    [refusal("INVALID_ARGUMENT", "CONTEXT_TOO_LARGE"), 413, "CONTEXT_TOO_LARGE", null],
    [refusal("INVALID_ARGUMENT", "INPUT_TOO_LARGE"), 413, "INPUT_TOO_LARGE", null],
    [refusal("UNAUTHENTICATED", "UNAUTHENTICATED"), 502, "BAD_GATEWAY", null],
    [refusal("PERMISSION_DENIED", "FORBIDDEN"), 502, "BAD_GATEWAY", null],
    [refusal("FAILED_PRECONDITION", "NOT_CONFIGURED"), 502, "NOT_CONFIGURED", null],
    [
      refusal("UNAVAILABLE", "STORAGE_UNAVAILABLE", { retryable: true, retryAfterMs: 250 }),
      503,
      "STORAGE_UNAVAILABLE",
      "1",
    ],
    [new Abort("UNAVAILABLE"), 503, "UNAVAILABLE", null],
    [new Abort("UNIMPLEMENTED"), 502, "BAD_GATEWAY", null],
  ];
  for (const [how, status, code, retryAfter] of cases) {
    server.scripts.length = 0;
    server.scripts.push(...Array.from({ length: 99 }, () => [how]));
    const streams = () => server.methods().filter((method) => method === "StreamReply").length;
    const before = streams();
    const response = await app.post("/ask", QUESTION);
    const body = (await response.json()) as Json;
    assert.deepEqual(
      [response.status, body["code"], response.headers.get("retry-after")],
      [status, code, retryAfter],
    );
    if (status === 429) assert.equal(streams(), before + 1, "a limit is not waited for");
    assert.doesNotMatch(JSON.stringify(body), /127\.0\.0\.1|bare/);
  }
});

scripted("a browser that leaves before the reply is accepted ends the call", async (server, app) => {
  server.scripts.push([HANG]);
  const browser = new AbortController();
  const asked = assert.rejects(app.post("/ask", QUESTION, { signal: browser.signal }));
  while (server.calls.at(-1)?.method !== "StreamReply") await setTimeout(5);
  browser.abort();
  await asked;
  await server.calls.at(-1)!.cancelled;
  while (app.ends.length === 0) await setTimeout(5);
  assert.deepEqual(app.ends, [{ type: "left" }]);
});

scripted("a browser that does not read slows the server down", async (server, app) => {
  const piece = "x".repeat(65_536);
  server.scripts.push([
    accepted(),
    ...Array.from({ length: 800 }, (_, i) => text(i + 1, piece)),
    finished(801),
  ]);
  const { hostname, port } = new URL(app.url);
  const socket = connect(Number(port), hostname);
  await once(socket, "connect");
  socket.pause();
  const body = JSON.stringify(QUESTION);
  const headers = [
    "Authorization: Bearer ada",
    "Content-Type: application/json",
    `Content-Length: ${body.length}`,
  ];
  socket.write(["POST /ask HTTP/1.1", "Host: test", ...headers, "", body].join("\r\n"));
  let before = -1;
  while (before !== server.proxy.received || before < 65_536) {
    before = server.proxy.received;
    await setTimeout(200);
  }
  // The socket's buffers in the kernel take a few MiB, the rest of 50 MiB stays at the server.
  assert.ok(server.proxy.received < 16 * 1024 * 1024, `${server.proxy.received} bytes came`);
  assert.ok(server.calls.at(-1)!.written < 800);
  socket.destroy();
  await server.calls.at(-1)!.cancelled;
});

test("a defect in the product's own events ends the stream with a neutral error", async () => {
  await using server = await Scripted.start();
  await using app = await App.start("express", server.address, {}, QUICK);
  server.scripts.push([accepted(), text(1, "Hel"), finished(2)]);
  const thrown: unknown[] = [];
  const web = createServer((_request, response) => {
    const faulty = { ...EVENTS, accepted: (_event: Accepted) => assert.fail("a secret detail") };
    sendReply(response, app.client.streamReply("Hi"), faulty).catch((error) => thrown.push(error));
  }).listen(0, "127.0.0.1");
  await once(web, "listening");
  const address = web.address();
  const port = typeof address === "object" ? address?.port : 0;
  const events = [];
  for await (const event of eventsOf(await fetch(`http://127.0.0.1:${port}`))) events.push(event);
  const error = "Something went wrong on the server.";
  assert.deepEqual(events, [{ type: "error", error, code: "INTERNAL", retryable: false }]);
  assert.equal(thrown.length, 1);
  web.close();
  web.closeAllConnections();
});

// body-parser reads such a body before it refuses it, so that Express needs no test.
test("fastify: a client that still sends a body that is too large gets the answer, and keeps its connection", async () => {
  await using server = await Scripted.start();
  await using app = await App.start("fastify", server.address, {}, QUICK);
  const { hostname, port } = new URL(app.url);
  const socket = connect(Number(port), hostname);
  let received = "";
  socket.setEncoding("utf8").on("data", (data: string) => (received += data));
  const size = 9_000_000;
  const head = `POST /ask HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length: ${size}\r\n\r\n`;
  socket.write(head + "x".repeat(1_000));
  while (!received.includes('"code":"TOO_LARGE"')) await once(socket, "data");
  assert.match(received, /^HTTP\/1\.1 413 /);
  assert.doesNotMatch(received, /^connection: close/im);
  socket.write("x".repeat(size - 1_000) + "GET /api/page/config HTTP/1.1\r\nHost: test\r\n\r\n");
  while (!received.includes('"wire":"chunks"')) await once(socket, "data");
  socket.destroy();
});

test("a credential that Parley refuses is logged for the operator, and a refused request is not", async ({
  mock,
}) => {
  const log = mock.method(console, "error", () => {});
  await using server = await Scripted.start();
  server.unary["CreateConversation"] = [QUESTION];
  await using app = await App.start("express", server.address, {}, QUICK);
  for (const [how, lines] of [
    [refusal("NOT_FOUND", "CONVERSATION_NOT_FOUND"), 0],
    [refusal("UNAUTHENTICATED", "UNAUTHENTICATED"), 1],
    [new Abort("UNIMPLEMENTED"), 2],
  ] as const) {
    server.scripts.push([how]);
    await app.post("/ask", QUESTION);
    assert.equal(log.mock.callCount(), lines);
  }
});
