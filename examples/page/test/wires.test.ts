import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { ChunksWire } from "../src/wire/chunks";
import type { Question, Wire } from "../src/wire/events";
import type { Http } from "../src/wire/http";
import { ImageWire } from "../src/wire/image";
import { NegotiateWire } from "../src/wire/negotiate";
import { PageWire } from "../src/wire/page";
import { SessionsWire } from "../src/wire/sessions";
import { TasksWire } from "../src/wire/tasks";
import { collect } from "./collect";
import { broken, events, json, Server, sse, sseCut } from "./server";

const TOKEN = `x.${btoa(JSON.stringify({ sub: "ada" }))}.x`;
const PAGE_EVENTS = [
  { type: "reply", reply_id: "r1", message_id: "m1", after: 0 },
  { type: "text", text: "A lease ", sequence: 1 },
  { type: "text", text: "is a 🔑 promise.", sequence: 2 },
  { type: "finished", reason: "STOP", input_tokens: 5, output_tokens: 7, cost_usd: 0.001, message_id: "m1" },
];

interface Case {
  name: string;
  open: (http: Http) => Wire;
  question?: Partial<Question>;
  path: string;
  body: object;
  sent: object[];
  failing: object;
}

const CASES: Case[] = [
  {
    name: "page",
    open: (http) => new PageWire(http),
    path: "/api/page/conversations/conversation-1/messages",
    body: { text: "What is a lease?", images: [] },
    sent: PAGE_EVENTS,
    failing: {
      type: "failed",
      message: "No.",
      code: "PROVIDER_TIMEOUT",
      retryable: true,
      retry_after_s: null,
    },
  },
  {
    name: "tasks",
    open: (http) => new TasksWire(http),
    path: "/api/conversations/conversation-1/messages/stream",
    body: { content: "What is a lease?" },
    sent: PAGE_EVENTS,
    failing: {
      type: "failed",
      message: "No.",
      code: "PROVIDER_TIMEOUT",
      retryable: true,
      retry_after_s: null,
    },
  },
  {
    name: "sessions",
    open: (http) => new SessionsWire(http),
    path: "/api/chat-sessions/conversation-1/send-message",
    body: { content: "What is a lease?", stream: true },
    sent: [
      { type: "content", data: "A lease " },
      { type: "content", data: "is a 🔑 promise." },
      { type: "done" },
    ],
    failing: { type: "error", error: "No.", code: "PROVIDER_TIMEOUT" },
  },
  {
    name: "image",
    open: (http) => new ImageWire(http),
    question: { pictures: [{ mimeType: "image/png", data: "iVBORw==" }] },
    path: "/api/ai/chat-image-stream",
    body: {
      base64_image: "iVBORw==",
      prompt: "What is a lease?",
      subject: "general",
      session_id: "conversation-1",
      student_id: "ada",
    },
    sent: [
      { type: "start", timestamp: "2026-11-29T10:00:00Z", model: "scripted" },
      { type: "content", content: "A lease ", delta: "A lease " },
      { type: "content", content: "A lease is a 🔑 promise.", delta: "is a 🔑 promise." },
      { type: "end", tokens: 7, finish_reason: "stop", content: "A lease is a 🔑 promise." },
    ],
    failing: { type: "error", error: "No.", code: "PROVIDER_TIMEOUT" },
  },
  {
    name: "chunks",
    open: (http) => new ChunksWire(http),
    path: "/api/ai/chat/stream",
    body: { conversationId: "conversation-1", message: "What is a lease?" },
    sent: [
      { type: "chunk", content: "A lease " },
      { type: "chunk", content: "is a 🔑 promise." },
      { type: "done" },
    ],
    failing: { type: "error", message: "No.", code: "PROVIDER_TIMEOUT" },
  },
  {
    name: "negotiate",
    open: (http) => new NegotiateWire(http),
    path: "/api/v1/messages",
    body: { message: "What is a lease?", conversation_id: "conversation-1" },
    sent: [
      { type: "token", content: "A lease " },
      { type: "token", content: "is a 🔑 promise." },
      { type: "complete", model: "scripted", totalTokens: 7 },
    ],
    failing: { type: "error", error: "No.", code: "PROVIDER_TIMEOUT" },
  },
];

let server: Server;
beforeEach(async () => void (server = await new Server().start()));
afterEach(() => server.stop());

describe.each(CASES)("wire $name", ({ open, question, path, body, sent, failing }) => {
  test("S0.12 S2.3 a question is sent, and its answer read to the end", async () => {
    server.answer(sse(...sent));
    const result = await collect(open(server.http(TOKEN)), question);
    expect(result.fault).toBeNull();
    expect(result.text).toBe("A lease is a 🔑 promise.");
    expect(result.events[0]?.type).toBe("accepted");
    expect(result.events.at(-1)).toMatchObject({ type: "finished", reason: "STOP" });
    expect(server.received).toHaveLength(1);
    expect(server.received[0]).toMatchObject({ method: "POST", path, body });
    expect(server.received[0]?.headers).toMatchObject({
      "idempotency-key": "request-1",
      authorization: `Bearer ${TOKEN}`,
      accept: "text/event-stream",
    });
  });

  test("S4.4 a connection that is cut after any number of bytes is reported as cut, unless the answer was complete", async () => {
    const length = Buffer.byteLength(events(...sent));
    for (let bytes = 0; bytes < length; bytes += bytes > length - 4 ? 1 : 7) {
      server.answer(sseCut(bytes, ...sent));
      const { fault, text, events: seen } = await collect(open(server.http(TOKEN)), question);
      expect(fault, `after ${bytes} of ${length} bytes`).toMatchObject({ kind: "cut" });
      expect("A lease is a 🔑 promise.".startsWith(text)).toBe(true);
      expect(seen.some(({ type }) => type === "finished" || type === "failed")).toBe(false);
    }
  });

  test("S4.4 a connection that is cut after the last event is no fault", async () => {
    server.answer(sseCut(Buffer.byteLength(events(...sent)), ...sent));
    const { events: seen } = await collect(open(server.http(TOKEN)), question);
    expect(seen.at(-1)).toMatchObject({ type: "finished" });
  });

  test("S4.4 a failure keeps the text before it and has its code", async () => {
    server.answer(sse(...sent.slice(0, -1), failing));
    const { events: seen, text } = await collect(open(server.http(TOKEN)), question);
    expect(text).toBe("A lease is a 🔑 promise.");
    expect(seen.at(-1)).toMatchObject({
      type: "failed",
      failure: { message: "No.", code: "PROVIDER_TIMEOUT" },
    });
  });

  test("S4.4 a refusal has its code, its sentence and the time to wait", async () => {
    const refusal = { message: "Enough.", error: "Enough.", code: "RATE_LIMITED", retryable: true };
    server.answer(json(429, refusal, { "retry-after": "12" }));
    const { fault, events: seen } = await collect(open(server.http(TOKEN)), question);
    expect(seen).toEqual([]);
    expect(fault).toMatchObject({
      kind: "refused",
      status: 429,
      failure: { code: "RATE_LIMITED", message: "Enough.", retryable: true, retryAfterMs: 12_000 },
    });
  });

  test("S4.4 HTTP_xxx: a refusal without the JSON of a backend, such as a proxy's", async () => {
    server.answer(
      (response) => void response.writeHead(503, { "content-type": "text/html" }).end("<h1>Down</h1>"),
    );
    const { fault } = await collect(open(server.http(TOKEN)), question);
    expect(fault).toMatchObject({
      kind: "refused",
      failure: { code: "HTTP_503", message: "", retryable: true },
    });
  });

  test("S4.4 NETWORK_ERROR: no answer at all", async () => {
    server.answer(broken);
    const { fault } = await collect(open(server.http(TOKEN)), question);
    expect(fault).toMatchObject({ kind: "cut", failure: { code: "NETWORK_ERROR" } });
  });

  test("S4.4 PARSE_ERROR: an event that is not JSON", async () => {
    server.answer((response) => {
      response
        .writeHead(200, { "content-type": "text/event-stream" })
        .end(`${events(...sent.slice(0, 2))}data: {"typ\n\n`);
    });
    const { fault } = await collect(open(server.http(TOKEN)), question);
    expect(fault).toMatchObject({ kind: "cut", failure: { code: "PARSE_ERROR" } });
  });

  test("S4.4 INVALID_CALLBACK and CALLBACK_ERROR", async () => {
    const wire = open(server.http(TOKEN));
    const asked = {
      conversationId: "conversation-1",
      text: "?",
      requestId: "r",
      pictures: [],
      streaming: true,
    };
    const { signal } = new AbortController();
    await expect(wire.send(asked, undefined as never, signal)).rejects.toMatchObject({
      kind: "fatal",
      failure: { code: "INVALID_CALLBACK" },
    });
    expect(server.received).toEqual([]);
    server.answer(sse(...sent));
    const crash = () => {
      throw new Error("the page is broken");
    };
    await expect(wire.send(asked, crash, signal)).rejects.toMatchObject({
      kind: "fatal",
      failure: { code: "CALLBACK_ERROR" },
    });
  });

  test("leaving ends the request and rejects with the reason", async () => {
    let closed: Promise<unknown> = Promise.resolve();
    const leaving = new AbortController();
    server.answer((response) => {
      closed = new Promise((resolve) => response.on("close", resolve));
      response.writeHead(200, { "content-type": "text/event-stream" }).write(events(...sent.slice(0, 1)));
      leaving.abort(new DOMException("left", "AbortError"));
    });
    await expect(collect(open(server.http(TOKEN)), question, leaving.signal)).rejects.toThrow("left");
    await closed;
  });

  test("ids of new conversations differ", () => {
    const wire = open(server.http());
    const ids = new Set(Array.from({ length: 100 }, () => wire.newConversationId()));
    expect(ids.size).toBe(100);
  });
});
