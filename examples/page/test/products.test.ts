import { afterEach, beforeEach, expect, test } from "vitest";
import { ImageWire } from "../src/wire/image";
import { NegotiateWire } from "../src/wire/negotiate";
import { SessionsWire } from "../src/wire/sessions";
import { readEvents } from "../src/wire/sse";
import { TasksWire } from "../src/wire/tasks";
import { subject } from "../src/wire/token";
import { collect } from "./collect";
import { json, Server, sse, sseOpen } from "./server";

let server: Server;
beforeEach(async () => void (server = await new Server().start()));
afterEach(() => server.stop());

const WHOLE = { streaming: false };
const task = (status: string, chunks: string[], more: object = {}) =>
  json(200, { status, chunks, final_message: null, error: null, ...more });
const ACCEPTED = json(202, { task_id: "task-1", status: "processing" });

test("S0.12 tasks: chunks are shown once each, and the final message is the answer", async () => {
  const final_message = { id: "m1", role: "assistant", content: "A lease is a promise.", created_at: "" };
  server.answer(
    ACCEPTED,
    task("processing", []),
    task("processing", ["A ", "lease "]),
    task("processing", ["A ", "lease ", "is "]),
    task("completed", [], { final_message }),
  );
  const { events, fault } = await collect(new TasksWire(server.http(), 1), WHOLE);
  expect(fault).toBeNull();
  expect(events).toEqual([
    { type: "accepted" },
    { type: "text", text: "A lease " },
    { type: "text", text: "is " },
    { type: "snapshot", text: "A lease is a promise." },
    { type: "finished", reason: "STOP", messageId: "m1" },
  ]);
  expect(server.received.map(({ method, path }) => `${method} ${path}`)).toEqual([
    "POST /api/conversations/conversation-1/messages",
    ...Array.from({ length: 4 }, () => "GET /api/tasks/task-1"),
  ]);
});

test("S0.12 tasks: polls are two seconds apart", async () => {
  const times: number[] = [];
  const note = task("processing", []);
  server.answer(
    ACCEPTED,
    (response, received) => {
      times.push(performance.now());
      return note(response, received);
    },
    (response, received) => {
      times.push(performance.now());
      return task("failed", [], { error: "No." })(response, received);
    },
  );
  const { events } = await collect(new TasksWire(server.http()), WHOLE);
  expect(events.at(-1)).toMatchObject({ type: "failed", failure: { message: "No.", retryable: true } });
  expect(times[1]! - times[0]!).toBeGreaterThanOrEqual(1_990);
});

test("S0.12 tasks: polling ends after a time without news, and says so", async () => {
  server.answer(ACCEPTED, ...Array.from({ length: 500 }, () => task("processing", ["A "])));
  const { fault, text } = await collect(new TasksWire(server.http(), 1, 50), WHOLE);
  expect(fault).toMatchObject({ kind: "fatal", failure: { code: "POLL_TIMEOUT" } });
  expect(text).toBe("A ");
});

test("S0.2 tasks: a task that is not there any more is shown as expired", async () => {
  server.answer(ACCEPTED, json(404, { message: "No such task.", code: "NOT_FOUND", retryable: false }));
  const { fault } = await collect(new TasksWire(server.http(), 1), WHOLE);
  expect(fault).toMatchObject({ kind: "fatal", failure: { code: "EXPIRED" } });
});

test("S0.9 tasks: a poll that the store cannot answer leaves the outcome unknown", async () => {
  server.answer(ACCEPTED, json(503, { message: "Later.", code: "STORAGE_UNAVAILABLE", retryable: true }));
  const { fault } = await collect(new TasksWire(server.http(), 1), WHOLE);
  expect(fault).toMatchObject({ kind: "cut", failure: { code: "STORAGE_UNAVAILABLE" } });
});

test("S1.4 sessions: without streaming the answer is one JSON", async () => {
  server.answer(json(200, { user_message: {}, assistant_message: {} }));
  const { events } = await collect(new SessionsWire(server.http()), WHOLE);
  expect(server.received[0]?.body).toEqual({ content: "What is a lease?", stream: false });
  expect(events).toEqual([{ type: "finished", reason: "STOP" }]);
});

test("S1.8 sessions: a stop from another tab ends the answer", async () => {
  server.answer(sse({ type: "content", data: "A " }, { type: "cancelled", reason: "user_cancelled" }));
  const { events } = await collect(new SessionsWire(server.http()));
  expect(events.at(-1)).toEqual({ type: "finished", reason: "CANCELLED", cancelReason: "user_cancelled" });
});

test("S1.1 sessions: ids are positive integers that JSON holds exactly", () => {
  const wire = new SessionsWire(server.http());
  for (let count = 0; count < 1_000; count += 1) {
    const id = wire.newConversationId();
    expect(String(Number(id))).toBe(id);
    expect(Number.isSafeInteger(Number(id)) && Number(id) > 0).toBe(true);
  }
});

test.each([
  ["an answer that is no stream", json(200, { message: "hello" })],
  ["a proxy that refuses the method", json(405, { message: "no", code: "METHOD_NOT_ALLOWED" })],
])("S2.3 image: falls back to a plain answer after %s", async (_, answer) => {
  server.answer(answer, json(200, { content: "A cat.", tokens: 2 }));
  const { events, fault } = await collect(new ImageWire(server.http()));
  expect(fault).toBeNull();
  expect(events.at(-1)).toEqual({ type: "finished", reason: "STOP" });
  const [streamed, plain] = server.received;
  expect(plain?.path).toBe("/api/ai/chat-image");
  expect(plain?.body).toEqual(streamed?.body);
  expect(plain?.headers["idempotency-key"]).toBe("request-1");
});

test("S2.3 image: the user may ask for whole answers", async () => {
  server.answer(json(200, { content: "A cat." }));
  await collect(new ImageWire(server.http()), WHOLE);
  expect(server.received.map(({ path }) => path)).toEqual(["/api/ai/chat-image"]);
});

test("S4.1 negotiate: JSON when it is asked for, and when the server's streaming is off", async () => {
  const answer = { content: "A promise.", model: "scripted", totalTokens: 3 };
  const finished = { type: "finished", reason: "STOP", model: "scripted", outputTokens: 3 };
  for (const streaming of [true, false]) {
    server.answer(json(200, answer));
    const { events, text } = await collect(new NegotiateWire(server.http()), { streaming });
    expect(text).toBe("A promise.");
    expect(events.at(-1)).toEqual(finished);
  }
  expect(server.received.map(({ headers }) => headers.accept)).toEqual(["text/event-stream", "*/*"]);
});

test("S4.4 negotiate: STREAM_TIMEOUT without a first token, and only without the first", async () => {
  server.answer(
    sseOpen(),
    sse({ type: "token", content: "A" }, { type: "complete", model: "m", totalTokens: 1 }),
  );
  const { fault } = await collect(new NegotiateWire(server.http(), 50));
  expect(fault).toMatchObject({ kind: "fatal", failure: { code: "STREAM_TIMEOUT", retryable: true } });
  expect((await collect(new NegotiateWire(server.http(), 5_000))).fault).toBeNull();
});

test("S0.12 a stream without a byte, not even a comment, counts as cut", async () => {
  server.answer(sseOpen({ type: "token" }));
  const { signal } = new AbortController();
  const reading = readEvents(
    server.http(),
    "GET",
    "/",
    { signal },
    { onData: () => undefined },
    { silenceMs: 50 },
  );
  await expect(reading).rejects.toMatchObject({ kind: "cut", failure: { code: "NETWORK_ERROR" } });
});

test("comments keep a silent stream open", async () => {
  server.answer((response) => {
    response.writeHead(200, { "content-type": "text/event-stream" });
    let left = 10;
    const timer = setInterval(() => {
      response.write(": alive\n\n");
      if ((left -= 1) > 0) return;
      clearInterval(timer);
      response.end('data: {"type":"done"}\n\n');
    }, 40);
  });
  const seen: unknown[] = [];
  const { signal } = new AbortController();
  await readEvents(
    server.http(),
    "GET",
    "/",
    { signal },
    { onData: (data) => seen.push(data) },
    { silenceMs: 250 },
  );
  expect(seen).toEqual([{ type: "done" }]);
});

test.each([
  [`x.${Buffer.from('{"sub":"zoë-ada"}').toString("base64url")}.x`, "zoë-ada"],
  [`x.${btoa('{"name":"ada"}')}.x`, ""],
  ["an API key", ""],
  ["x.%%%.x", ""],
  [null, ""],
])("the subject of the token %s is %j", (token, expected) => expect(subject(token)).toBe(expected));
