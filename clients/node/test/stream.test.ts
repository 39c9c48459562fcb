/** Streams over real sockets: cuts, refusals, silence and leaving; the text is exact and there is one end. */

import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { describe, test } from "node:test";
import { setImmediate, setTimeout } from "node:timers/promises";
import { create, equals } from "@bufbuild/protobuf";
import {
  Client,
  ConnectionLost,
  InternalError,
  InvalidRequest,
  ModelNotFound,
  RateLimited,
  ReplyFailed,
  ReplyInProgress,
  Unauthenticated,
  Unavailable,
  type ClientOptions,
  type Code,
  type ReplyEvent,
  type ReplyStream,
} from "../src/index.js";
import {
  CancelRequestSchema,
  FinishReason,
  ReplyRequestSchema,
  ResumeReplyRequestSchema,
  Reply_State,
  UsageSchema,
  type CancelRequest,
  type ResumeReplyRequest,
} from "../src/v1.js";
import {
  Abort,
  BREAK,
  END,
  HANG,
  HEADERS,
  Scripted,
  accepted,
  chunk,
  failed,
  finished,
  refusal,
  replyError,
  requestOf,
  snapshot,
  text,
  texts,
  type Step,
} from "./scripted.js";

const QUICK = { firstMs: 1, maxMs: 10, maxElapsedMs: 10_000 };
const LOG = [...texts("Hel", "lo ", "wor", "ld"), finished(5)];
const ACCEPTED: ReplyEvent = {
  type: "accepted",
  replyId: "reply-1",
  conversationId: "conversation-1",
  messageId: "message-2",
  inputMessageIds: ["message-1"],
  model: "scripted",
  replayed: false,
  ignoredSettings: ["seed"],
  quota: undefined,
};
const PIECES = ["Hel", "lo ", "wor", "ld"].map((piece): ReplyEvent => ({ type: "text", text: piece }));
const UNAVAILABLE = new Abort("UNAVAILABLE");

function end(whole: string, reason: "STOP" | "CANCELLED" = "STOP", cancelReason = ""): ReplyEvent {
  const usage = create(UsageSchema, { promptTokens: 3, completionTokens: 5 });
  const served = { model: "spare", provider: "typewriter" };
  return { type: "finished", reason, text: whole, ...served, cancelReason, usage };
}

const WHOLE = [ACCEPTED, ...PIECES, end("Hello world")];

/** Runs a test with its own server and client. */
function scripted(
  name: string,
  body: (server: Scripted, client: Client) => Promise<void>,
  options: ClientOptions = {},
): void {
  test(name, async () => {
    await using server = await Scripted.start();
    server.log = LOG;
    using client = new Client(server.address, { backoff: QUICK, ...options });
    await body(server, client);
  });
}

/** All events except `reconnecting`. */
async function read(stream: ReplyStream): Promise<ReplyEvent[]> {
  const events: ReplyEvent[] = [];
  for await (const event of stream) if (event.type !== "reconnecting") events.push(event);
  return events;
}

async function nextOf(stream: ReplyStream): Promise<ReplyEvent> {
  const { done, value } = await stream.next();
  assert.ok(!done, "the stream has ended");
  return value;
}

async function throughText(stream: ReplyStream): Promise<void> {
  while ((await nextOf(stream)).type !== "text");
}

async function within<T>(ms: number, what: string, promise: Promise<T>): Promise<T> {
  const timer = new AbortController();
  const late = setTimeout(ms, undefined, { signal: timer.signal }).then(() =>
    assert.fail(`${what} took over ${ms} ms`),
  );
  try {
    return await Promise.race([promise, late]);
  } finally {
    timer.abort();
    late.catch(() => {});
  }
}

scripted("a whole reply", async (server, client) => {
  const stream = client.streamReply({ text: "Hi", model: "scripted", requestId: "r1" });
  assert.deepEqual(await read(stream), WHOLE);
  const { requestId, replyId, conversationId, messageId, sequence, finished: last } = stream;
  assert.deepEqual(
    [requestId, replyId, conversationId, messageId, sequence, stream.text],
    ["r1", "reply-1", "conversation-1", "message-2", 5, "Hello world"],
  );
  assert.deepEqual(last, WHOLE.at(-1));
  const expected = create(ReplyRequestSchema, { requestId: "r1", text: "Hi", model: "scripted" });
  assert.deepEqual(requestOf(server.calls[0]), expected);
  assert.equal(server.calls[0]?.isCancelled, false);
});

const CUTS: [string, Step][] = [
  ["OK", END],
  ["UNAVAILABLE", UNAVAILABLE],
  ["DRAINING", refusal("UNAVAILABLE", "DRAINING", { retryAfterMs: 10 })],
  ["STORAGE_UNAVAILABLE", refusal("UNAVAILABLE", "STORAGE_UNAVAILABLE")],
  ["OWNER_LOST", refusal("ABORTED", "OWNER_LOST")],
  ["TOO_MANY_READERS", refusal("RESOURCE_EXHAUSTED", "TOO_MANY_READERS")],
  ["CANCELLED", new Abort("CANCELLED")],
  ["INTERNAL", new Abort("INTERNAL")],
  ["UNKNOWN", new Abort("UNKNOWN")],
  ["DEADLINE_EXCEEDED", new Abort("DEADLINE_EXCEEDED")],
  ["a reset connection", BREAK],
];

describe("cut at every chunk boundary", () => {
  for (const [name, how] of CUTS) {
    for (const after of [1, 2, 3, 4, 5]) {
      scripted(`by ${name} after ${after}`, async (server, client) => {
        server.cuts.push({ after, how });
        assert.deepEqual(await read(client.streamReply("Hi")), WHOLE);
        const [first, second] = server.calls;
        assert.equal(server.calls.length, 2);
        if (second?.method === "StreamReply") {
          // The connection broke before `accepted` arrived.
          assert.ok(how === BREAK || how instanceof Abort);
          assert.deepEqual(first?.request, second.request);
        } else {
          assert.ok((second?.request as ResumeReplyRequest).afterSequence <= after - 1);
        }
      });
    }
  }
});

scripted("all chunks before a failing status are read", async (server, client) => {
  const many = texts(...Array.from({ length: 200 }, (_, i) => `${i} `));
  const error = replyError("ABORTED", "PROVIDER_TRUNCATED");
  server.scripts.push([accepted(), ...many, failed(201, error), new Abort("ABORTED", error)]);
  const stream = client.streamReply("Hi");
  await assert.rejects(read(stream), ReplyFailed);
  assert.equal(stream.text, many.map(({ event }) => event.value).join(""));
});

scripted("cut after every single chunk", async (server, client) => {
  for (let i = 0; i < 3; i++) server.cuts.push({ after: 2, how: BREAK });
  assert.deepEqual(await read(client.streamReply("Hi")), WHOLE);
});

for (const [name, steps] of Object.entries<Step[]>({
  OK: [HEADERS, END],
  UNAVAILABLE: [HEADERS, UNAVAILABLE],
  reset: [HEADERS, BREAK],
  CANCELLED: [HEADERS, new Abort("CANCELLED")],
})) {
  scripted(
    `cut between headers and accepted by ${name}: retried with the same requestId`,
    async (server, client) => {
      server.scripts.push(steps);
      assert.deepEqual(await read(client.streamReply("Hi")), WHOLE);
      assert.deepEqual(server.methods(), ["StreamReply", "StreamReply"]);
      assert.deepEqual(server.calls[0]?.request, server.calls[1]?.request);
      assert.ok(requestOf(server.calls[0]).requestId);
    },
  );
}

for (const reason of ["DRAINING", "OVERLOADED", "STORAGE_UNAVAILABLE"] as const) {
  scripted(`a temporary refusal is retried with the same requestId: ${reason}`, async (server, client) => {
    server.scripts.push([refusal("UNAVAILABLE", reason, { retryable: true, retryAfterMs: 50 })]);
    const begun = performance.now();
    const stream = client.streamReply("Hi");
    const event = await nextOf(stream);
    assert.ok(event.type === "reconnecting");
    assert.deepEqual([event.attempt, event.delayMs, event.error.reason], [1, 50, reason]);
    assert.deepEqual(await read(stream), WHOLE);
    assert.ok(performance.now() - begun >= 49);
    assert.equal(requestOf(server.calls[0]).requestId, requestOf(server.calls[1]).requestId);
  });
}

for (const [code, reason, kind] of [
  ["INVALID_ARGUMENT", "INVALID_REQUEST", InvalidRequest],
  ["UNAUTHENTICATED", "UNAUTHENTICATED", Unauthenticated],
  ["NOT_FOUND", "MODEL_NOT_FOUND", ModelNotFound],
  ["ABORTED", "REPLY_IN_PROGRESS", ReplyInProgress],
  ["RESOURCE_EXHAUSTED", "RATE_LIMITED", RateLimited],
  ["INTERNAL", "INTERNAL", InternalError],
] as const) {
  scripted(`a permanent refusal is thrown at once: ${reason}`, async (server, client) => {
    server.scripts.push([refusal(code, reason)]);
    await assert.rejects(read(client.streamReply("Hi")), (error) => {
      assert.ok(error instanceof kind);
      assert.deepEqual([error.code, error.message], [code satisfies Code, "as scripted"]);
      return true;
    });
    assert.equal(server.calls.length, 1);
  });
}

scripted("goAway, then the end of the call: it resumes", async (server, client) => {
  const goAway = chunk(2, { case: "goAway", value: {} });
  server.scripts.push([accepted(), ...LOG.slice(0, 2), goAway, refusal("UNAVAILABLE", "DRAINING")]);
  assert.deepEqual(
    await read(client.streamReply({ text: "Hi", reasoning: true, heartbeatMs: 5_000 })),
    WHOLE,
  );
  const expected = create(ResumeReplyRequestSchema, {
    replyId: "reply-1",
    afterSequence: 2,
    streamOptions: { reasoning: true, heartbeat: { seconds: 5n } },
  });
  assert.ok(equals(ResumeReplyRequestSchema, server.calls[1]?.request as ResumeReplyRequest, expected));
});

scripted("a snapshot replaces lost text", async (server, client) => {
  server.scripts.push([accepted(), text(1, "Hel"), text(2, "lost"), UNAVAILABLE]);
  server.scripts.push([accepted(2), snapshot(65_537, "Hello"), finished(65_538)]);
  const stream = client.streamReply("Hi");
  const events = await read(stream);
  assert.deepEqual(
    events.map(({ type }) => type),
    ["accepted", "text", "text", "snapshot", "finished"],
  );
  assert.deepEqual(events[4], end("Hello"));
  assert.equal(stream.text, "Hello");
});

scripted("a failed reply throws with its text, once", async (server, client) => {
  const error = replyError("ABORTED", "PROVIDER_TRUNCATED", { retryable: true });
  server.scripts.push([accepted(), text(1, "half"), failed(2, error), new Abort("ABORTED", error)]);
  const stream = client.streamReply("Hi");
  await assert.rejects(read(stream), (failure) => {
    assert.ok(failure instanceof ReplyFailed);
    const { reason, text: partial, messageId, replyId, retryable, usage } = failure;
    assert.deepEqual(
      [reason, partial, messageId, replyId, retryable, usage?.promptTokens],
      ["PROVIDER_TRUNCATED", "half", "message-2", "reply-1", true, 3],
    );
    return true;
  });
  assert.deepEqual(await read(stream), []);
  assert.equal(server.calls.length, 1);
  assert.equal(server.calls[0]?.isCancelled, false);
});

scripted("repeated terminals end once", async (server, client) => {
  server.scripts.push([accepted(), text(1, "Hello world"), finished(2), finished(2), finished(3)]);
  assert.deepEqual(await read(client.streamReply("Hi")), [
    ACCEPTED,
    { type: "text", text: "Hello world" },
    end("Hello world"),
  ]);
});

scripted("resume continues from a cursor", async (_, client) => {
  assert.deepEqual(await read(client.resume("reply-1", { afterSequence: 3 })), [
    ACCEPTED,
    PIECES[3],
    end("ld"),
  ]);
  assert.deepEqual(await read(client.resume("reply-1", { afterSequence: 5 })), [ACCEPTED, end("")]);
});

scripted(
  "ConnectionLost after acceptance has the cursor and the text",
  async (server, client) => {
    server.scripts.push([accepted(), text(1, "Hel"), UNAVAILABLE]);
    for (let i = 0; i < 100; i++) server.scripts.push([accepted(1), UNAVAILABLE]);
    const begun = performance.now();
    await assert.rejects(read(client.streamReply("Hi")), (lost) => {
      assert.ok(lost instanceof ConnectionLost && lost instanceof Unavailable);
      assert.deepEqual([lost.replyId, lost.sequence, lost.text, lost.retryable], ["reply-1", 1, "Hel", true]);
      return true;
    });
    assert.ok(performance.now() - begun >= 100);
    assert.ok(server.calls.length >= 3);
  },
  { backoff: { firstMs: 10, maxMs: 100, maxElapsedMs: 300 } },
);

test("a missing server is Unavailable", async () => {
  using client = new Client("127.0.0.1:1", { backoff: { maxElapsedMs: 0 } });
  await assert.rejects(read(client.streamReply("Hi")), Unavailable);
});

const WAYS: Record<string, (stream: ReplyStream, abort: () => void) => Promise<void>> = {
  break: async (stream) => {
    for await (const event of stream) if (event.type === "text") break;
  },
  throw: async (stream) => {
    const leave = async () => {
      for await (const event of stream) if (event.type === "text") throw new Error("the loop's own");
    };
    await assert.rejects(leave(), /the loop's own/);
  },
  close: async (stream) => {
    await throughText(stream);
    stream.close();
    assert.deepEqual(await stream.next(), { done: true, value: undefined });
  },
  dispose: async (opened) => {
    await using stream = opened;
    await throughText(stream);
  },
  abort: async (stream, abort) => {
    await throughText(stream);
    const waiting = assert.rejects(stream.next(), { name: "AbortError" });
    abort();
    await waiting;
    assert.deepEqual(await stream.next(), { done: true, value: undefined });
  },
  "abort between two steps": async (stream, abort) => {
    await throughText(stream);
    abort();
    await assert.rejects(stream.next(), { name: "AbortError" });
  },
  "close under a waiting step": async (stream) => {
    await throughText(stream);
    const waiting = stream.next();
    stream.close();
    assert.deepEqual(await waiting, { done: true, value: undefined });
  },
};

describe("leaving ends the call on the server at once and leaves nothing open", () => {
  for (const [name, leave] of Object.entries(WAYS)) {
    scripted(name, async (server, client) => {
      server.scripts.push([accepted(), text(1, "Hel"), HANG]);
      const controller = new AbortController();
      await leave(client.streamReply("Hi", { signal: controller.signal }), () => controller.abort());
      await within(1_000, "the server's notice", server.calls[0]!.cancelled);
      assert.equal(getEventListeners(controller.signal, "abort").length, 0);
      await setImmediate();
      assert.equal(process.getActiveResourcesInfo().filter((kind) => kind === "Timeout").length, 0);
      assert.equal(server.calls.length, 1);
    });
  }
});

scripted("an aborted signal sends nothing", async (server, client) => {
  const stream = client.streamReply("Hi", { signal: AbortSignal.abort(new Error("mine")) });
  await assert.rejects(stream.next(), /mine/);
  assert.equal(server.calls.length, 0);
});

scripted("a signal that is aborted after the end changes nothing", async (_, client) => {
  const controller = new AbortController();
  const stream = client.streamReply("Hi", { signal: controller.signal });
  const events: ReplyEvent[] = [];
  for await (const event of stream) {
    events.push(event);
    if (event.type === "finished") controller.abort();
  }
  assert.deepEqual(events, WHOLE);
});

scripted(
  "leaving ends a pause between two attempts",
  async (server, client) => {
    server.scripts.push([UNAVAILABLE]);
    const stream = client.streamReply("Hi");
    assert.equal((await nextOf(stream)).type, "reconnecting");
    const waiting = stream.next();
    await setImmediate();
    stream.close();
    assert.deepEqual(await within(1_000, "the end", waiting), { done: true, value: undefined });
    assert.equal(server.calls.length, 1);
  },
  { backoff: { firstMs: 60_000, maxMs: 60_000, maxElapsedMs: 600_000 } },
);

scripted("a stream that is not read sends nothing and can be closed", async (server, client) => {
  const stream = client.streamReply("Hi");
  stream.close();
  assert.deepEqual(await read(stream), []);
  assert.equal(server.calls.length, 0);
});

scripted("closing the client fails its readers and closes its connection", async (server, client) => {
  server.scripts.push([accepted(), text(1, "Hel"), HANG]);
  const stream = client.streamReply("Hi");
  await throughText(stream);
  const waiting = assert.rejects(stream.next(), (error) => {
    assert.ok(error instanceof Unavailable);
    return /closed/.test(error.message);
  });
  client.close();
  await within(1_000, "the reader's end", waiting);
  await within(1_000, "the server's notice", server.calls[0]!.cancelled);
  await within(
    1_000,
    "the connection's end",
    (async () => {
      while (server.proxy.open > 0) await setTimeout(5);
    })(),
  );
  await assert.rejects(client.streamReply("Hi").next(), /closed/);
});

scripted(
  "silence is a cut, and a slow reader is not silence",
  async (server, client) => {
    server.cuts.push({ after: 3, how: HANG });
    const stream = client.streamReply("Hi");
    assert.deepEqual(await nextOf(stream), ACCEPTED);
    await setTimeout(750);
    assert.deepEqual(await read(stream), WHOLE.slice(1));
    assert.deepEqual(server.methods(), ["StreamReply", "ResumeReply"]);
    assert.equal((server.calls[1]?.request as ResumeReplyRequest).afterSequence, 2);
    await within(5_000, "the server's notice", server.calls[0]!.cancelled);
  },
  { silenceMs: 500 },
);

scripted(
  "an attempt's time limit is a cut",
  async (server, client) => {
    server.cuts.push({ after: 2, how: HANG });
    assert.deepEqual(await read(client.streamReply("Hi")), WHOLE);
    assert.deepEqual(server.methods(), ["StreamReply", "ResumeReply"]);
  },
  { attemptTimeoutMs: 1_000 },
);

scripted("a connection that is accepted but never answered is replaced", async (server, client) => {
  await read(client.streamReply("Hi"));
  server.proxy.cut();
  server.proxy.stall();
  const stream = client.streamReply("Hi");
  let event = await within(8_000, "giving up", nextOf(stream));
  if (event.type === "reconnecting" && server.proxy.accepted < 2) {
    event = await within(8_000, "giving up", nextOf(stream)); // the first one was the cut
  }
  assert.ok(event.type === "reconnecting");
  assert.equal(event.error.code, "UNAVAILABLE");
  server.proxy.stall(false);
  assert.deepEqual(await within(1_000, "the rest", read(stream)), WHOLE);
});

scripted("cancel before and after acceptance", async (server, client) => {
  server.unary["Cancel"] = [
    refusal("NOT_FOUND", "REPLY_NOT_FOUND"),
    { id: "reply-1", state: Reply_State.CANCELLED },
  ];
  let goOn = (): void => {};
  const going = new Promise<void>((resolve) => (goOn = resolve));
  server.scripts.push([accepted(), text(1, "Hel"), going, finished(2, FinishReason.CANCELLED, "enough")]);
  const stream = client.streamReply({ text: "Hi", requestId: "r1" });
  assert.equal(await stream.cancel("early"), undefined);
  await throughText(stream);
  assert.equal((await stream.cancel("enough"))?.state, Reply_State.CANCELLED);
  goOn();
  assert.deepEqual(await read(stream), [end("Hel", "CANCELLED", "enough")]);
  const cancels = server.calls
    .filter(({ method }) => method === "Cancel")
    .map(({ request }) => request as CancelRequest);
  assert.deepEqual(cancels, [
    create(CancelRequestSchema, { target: { case: "requestId", value: "r1" }, reason: "early" }),
    create(CancelRequestSchema, { target: { case: "replyId", value: "reply-1" }, reason: "enough" }),
  ]);
});

scripted("a slow reader slows the server down and uses little memory", async (server, client) => {
  const piece = "x".repeat(65_536);
  server.scripts.push([accepted(), ...texts(...Array<string>(400).fill(piece)), finished(401)]);
  const stream = client.streamReply("Hi");
  await throughText(stream);
  let before = -1;
  while (before !== server.proxy.received) {
    before = server.proxy.received;
    await setTimeout(200);
  }
  // Two HTTP/2 windows (64 KiB), the client's read-ahead, and the socket buffers of the proxy.
  assert.ok(server.proxy.received < 1024 * 1024, `${server.proxy.received} bytes came`);
  assert.equal((await read(stream)).length, 400);
  assert.equal(stream.text, piece.repeat(400));
});
