import { afterEach, beforeEach, expect, test } from "vitest";
import { PageApi } from "../src/api/page";
import type { Message } from "../src/api/types";
import { Follow } from "../src/state/follow";
import { liveView, type Ending, type LiveView } from "../src/state/live";
import { attaching, sending } from "../src/state/starts";
import { ChunksWire } from "../src/wire/chunks";
import type { Wire } from "../src/wire/events";
import { PageWire } from "../src/wire/page";
import { QUESTION } from "./collect";
import { broken, events, json, nothing, Server, sse, sseCut, sseOpen } from "./server";

const REPLY = { type: "reply", reply_id: "r1", message_id: "m2", after: 0 };
const FIRST = { type: "text", text: "A lease ", sequence: 1 };
const SECOND = { type: "text", text: "is a promise.", sequence: 2 };
const END = { type: "finished", reason: "STOP", message_id: "m2" };

let server: Server;
let view: LiveView;
let leaving: AbortController;
beforeEach(async () => {
  server = await new Server().start();
  view = liveView("key", false);
  leaving = new AbortController();
});
afterEach(() => server.stop());

function follow(): Follow {
  return new Follow(new PageApi(server.http()), "conversation-1", view, leaving.signal, 5);
}

function ask(wire: Wire = new PageWire(server.http())): Promise<Ending> {
  return follow().run(sending(wire, QUESTION, new Set(["m0"]), () => undefined));
}

function paths(): string[] {
  return server.received.map(({ method, path }) => `${method} ${path.replace(/^.*conversation-1/, "")}`);
}

const stored = (...messages: Partial<Message>[]) => json(200, { messages, active_reply_id: null });
const refusal = (status: number, code: string) =>
  json(status, { message: "No.", code, retryable: status >= 500 });

test("S0.12 after a cut at any byte, the answer is whole and was asked for once", async () => {
  const whole = Buffer.byteLength(events(REPLY, FIRST, SECOND, END));
  for (let bytes = 1; bytes < whole; bytes += 9) {
    server.received.length = 0;
    view.text = "";
    server.answer(sseCut(bytes, REPLY, FIRST, SECOND, END), (response, received) => {
      const after = Number(new URL(received.path, "http://x").searchParams.get("after"));
      const rest = [FIRST, SECOND].slice(after);
      return sse({ ...REPLY, after }, ...rest, END)(response, received);
    });
    const ending = await ask();
    expect(ending, `after ${bytes} bytes`).toMatchObject({ kind: "finished" });
    expect(view.text).toBe("A lease is a promise.");
    expect(paths().filter((path) => path.startsWith("POST"))).toHaveLength(1);
  }
});

test("S0.12 many cuts: the text does not become shorter while it is sent again", async () => {
  const texts: string[] = [];
  const noted = new Proxy(view, {
    set(target, name, value) {
      if (name === "text") texts.push(value as string);
      return Reflect.set(target, name, value);
    },
  });
  const again = { ...FIRST, text: "A " };
  server.answer(
    sseCut(events(REPLY, FIRST).length, REPLY, FIRST, SECOND),
    sseCut(events(REPLY, again).length, REPLY, again, SECOND),
    broken,
    sse({ ...REPLY, after: 1 }, { ...SECOND, text: "lease is a promise." }, END),
  );
  const start = sending(new PageWire(server.http()), QUESTION, new Set(), () => undefined);
  await new Follow(new PageApi(server.http()), "conversation-1", noted, leaving.signal, 5).run(start);
  expect(texts.at(-1)).toBe("A lease is a promise.");
  for (const [index, text] of texts.entries()) expect(text.startsWith(texts[index - 1] ?? "")).toBe(true);
  expect(paths().slice(1)).toEqual([
    "GET /stream?reply_id=r1&after=1",
    "GET /stream?reply_id=r1&after=1",
    "GET /stream?reply_id=r1&after=1",
  ]);
});

test("S0.12 a wire without positions falls back to the page routes, from the beginning", async () => {
  server.answer(
    sseCut(
      events({ type: "chunk", content: "A lease " }).length,
      { type: "chunk", content: "A lease " },
      END,
    ),
    sse(REPLY, FIRST, SECOND, END),
  );
  expect(await ask(new ChunksWire(server.http()))).toMatchObject({ kind: "finished" });
  expect(view.text).toBe("A lease is a promise.");
  expect(paths()).toEqual(["POST /api/ai/chat/stream", "GET /stream"]);
});

test("a question that never arrived is sent again with the same key", async () => {
  server.answer(
    broken,
    nothing,
    stored({ id: "m0", role: "user", text: QUESTION.text }),
    sse(REPLY, FIRST, END),
  );
  expect(await ask()).toMatchObject({ kind: "finished" });
  expect(paths()).toEqual(["POST /messages", "GET /stream", "GET /messages", "POST /messages"]);
  const keys = server.received.map(({ headers }) => headers["idempotency-key"]).filter(Boolean);
  expect(keys).toEqual(["request-1", "request-1"]);
});

test("a new conversation that was never made is no end", async () => {
  server.answer(broken, refusal(404, "NOT_FOUND"), refusal(404, "NOT_FOUND"), sse(REPLY, FIRST, END));
  expect(await ask()).toMatchObject({ kind: "finished" });
});

test("a question that arrived and was answered meanwhile is not sent again", async () => {
  server.answer(broken, nothing, stored({ id: "m1", role: "user", text: QUESTION.text }));
  expect(await ask()).toEqual({ kind: "settled" });
  expect(paths()).toEqual(["POST /messages", "GET /stream", "GET /messages"]);
});

test("a refusal is final, and the same refusal while reconnecting is not", async () => {
  server.answer(refusal(503, "DRAINING"));
  expect(await ask()).toMatchObject({ kind: "refused", status: 503, failure: { code: "DRAINING" } });
  server.answer(
    sseCut(events(REPLY, FIRST).length, REPLY, FIRST, END),
    refusal(503, "DRAINING"),
    refusal(502, "BAD_GATEWAY"),
    sse({ ...REPLY, after: 1 }, SECOND, END),
  );
  expect(await ask()).toMatchObject({ kind: "finished" });
  expect(view.text).toBe("A lease is a promise.");
});

test("S4.4 answers that cannot be read end in words, not in an endless loop", async () => {
  const garbage = json(200, { hello: "world" });
  server.answer(garbage, garbage, garbage, garbage);
  expect(await ask()).toMatchObject({ kind: "failed", failure: { code: "PARSE_ERROR" } });
  expect(server.received).toHaveLength(3);
});

test("a text that was replaced on the server is read from the stored messages", async () => {
  server.answer(
    sse({ type: "chunk", content: "A" }, { type: "error", message: "Reload.", code: "TEXT_REPLACED" }),
  );
  expect(await ask(new ChunksWire(server.http()))).toEqual({ kind: "settled" });
});

test("the view has words for every phase", async () => {
  let finish = () => undefined as void;
  server.answer((response) => {
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.write(events(REPLY));
    finish = () => void response.end(events(FIRST, END));
  });
  const ending = follow().run(attaching(new PageApi(server.http()), "conversation-1"));
  expect(view.phase).toBe("connecting");
  await expect.poll(() => view.phase).toBe("thinking");
  finish();
  await ending;
  expect(view.phase).toBe("writing");
});

test("reconnecting at once ends the wait", async () => {
  const one = new Follow(new PageApi(server.http()), "conversation-1", view, leaving.signal, 60_000);
  server.answer(broken, sse(REPLY, FIRST, END));
  const ending = one.run(attaching(new PageApi(server.http()), "conversation-1"));
  await expect.poll(() => view.phase).toBe("reconnecting");
  expect(view.nextAttemptMs).toBeGreaterThan(Date.now() + 3_000);
  one.reconnect();
  expect(await ending).toMatchObject({ kind: "finished" });
});

test("leaving ends everything", async () => {
  server.answer(sseOpen(REPLY, FIRST));
  const ending = ask();
  await expect.poll(() => view.text).toBe("A lease ");
  leaving.abort(new DOMException("left", "AbortError"));
  await expect(ending).rejects.toThrow("left");
});
