/** Unary calls over a real socket: retries, typed errors, pages, identity. */

import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { test } from "node:test";
import { create, equals } from "@bufbuild/protobuf";
import {
  Client,
  DeadlineExceeded,
  Overloaded,
  ReplyNotFound,
  Unavailable,
  type CancelTarget,
  type ClientOptions,
} from "../src/index.js";
import {
  CancelRequestSchema,
  PollReplyResponseSchema,
  ReplySchema,
  Reply_State,
  Role,
  type ConversationSchema,
  type CreateConversationRequest,
  type DeleteConversationRequest,
  type ListConversationsRequest,
  type PollReplyRequest,
  type UpdateConversationRequest,
} from "../src/v1.js";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { Abort, Scripted, finished, refusal, requestOf, text } from "./scripted.js";

const BARE = new Abort("UNAVAILABLE");
const REPLY = create(ReplySchema, { id: "reply-1", state: Reply_State.COMPLETED });
const OPTIONS: ClientOptions = {
  apiKey: "key",
  endUser: "ada",
  backoff: { firstMs: 1, maxMs: 10, maxElapsedMs: 5_000 },
};

function scripted(
  name: string,
  body: (server: Scripted, client: Client) => Promise<void>,
  options: ClientOptions = {},
): void {
  test(name, async () => {
    await using server = await Scripted.start();
    using client = new Client(server.address, { ...OPTIONS, ...options });
    await body(server, client);
  });
}

async function all<T>(found: AsyncIterable<T>): Promise<T[]> {
  const items: T[] = [];
  for await (const item of found) items.push(item);
  return items;
}

scripted("every call carries the identity", async (server, client) => {
  server.unary["GetReply"] = [REPLY];
  server.log = [text(1, "a"), finished(2)];
  assert.deepEqual(await client.getReply("reply-1"), REPLY);
  await all(client.streamReply("Hi"));
  assert.equal(server.calls.length, 2);
  for (const { metadata } of server.calls) {
    assert.deepEqual([metadata.get("authorization"), metadata.get("x-end-user")], [["Bearer key"], ["ada"]]);
  }
});

scripted("a client for another end user shares the connection", async (server, client) => {
  server.unary["GetReply"] = [REPLY];
  server.log = [text(1, "a"), finished(2)];
  const other = client.actingFor("ben");
  assert.deepEqual(await other.getReply("reply-1"), REPLY);
  await all(other.streamReply("Hi"));
  await client.getReply("reply-1");
  assert.deepEqual(
    server.calls.map(({ metadata }) => [metadata.get("authorization"), metadata.get("x-end-user")].flat()),
    [
      ["Bearer key", "ben"],
      ["Bearer key", "ben"],
      ["Bearer key", "ada"],
    ],
  );
  other.close();
  await assert.rejects(client.getReply("reply-1"), /the client is closed/);
});

test("an end user with characters that metadata cannot contain is rejected", () => {
  assert.throws(() => new Client("127.0.0.1:1", { endUser: "Zoë" }), /x-end-user/);
  using client = new Client("127.0.0.1:1");
  assert.throws(() => client.actingFor("Zoë"), /x-end-user/);
});

scripted("a cut call is retried", async (server, client) => {
  server.unary["GetReply"] = [BARE, refusal("UNAVAILABLE", "DRAINING"), REPLY];
  assert.deepEqual(await client.getReply("reply-1"), REPLY);
  assert.equal(server.calls.length, 3);
});

scripted(
  "createReply is retried with the same requestId and the remaining wait",
  async (server, client) => {
    server.unary["CreateReply"] = [BARE, BARE, REPLY];
    assert.deepEqual(await client.createReply("Hi", { waitMs: 5_000 }), REPLY);
    const requests = server.calls.map(requestOf);
    assert.equal(new Set(requests.map(({ requestId }) => requestId)).size, 1);
    const waits = requests.map(({ wait }) => Number(wait?.seconds) * 1e3 + (wait?.nanos ?? 0) / 1e6);
    assert.ok(
      5_000 >= waits[0]! && waits[0]! > waits[1]! && waits[1]! > waits[2]! && waits[2]! > 0,
      `${waits}`,
    );
  },
  { backoff: { firstMs: 20, maxMs: 20 } },
);

scripted("createReply without a wait sends no wait and no deadline", async (server, client) => {
  server.unary["CreateReply"] = [REPLY];
  await client.createReply("Hi");
  await client.createReply("Hi", { waitMs: 0 });
  const [first, second] = server.calls.map(requestOf);
  assert.equal(first?.wait, undefined);
  assert.deepEqual([second?.wait?.seconds, second?.wait?.nanos], [0n, 0]);
});

scripted("an update of a conversation is not retried", async (server, client) => {
  server.unary["UpdateConversation"] = [BARE];
  const change = client.conversations.update(
    { id: "c", postSystem: "t" },
    { fields: ["title", "postSystem"] },
  );
  await assert.rejects(change, Unavailable);
  assert.equal(server.calls.length, 1);
  const { updateMask } = server.calls[0]?.request as UpdateConversationRequest;
  assert.deepEqual(updateMask?.paths, ["title", "post_system"]);
});

scripted(
  "a call stops when the backoff expires",
  async (server, client) => {
    server.unary["GetReply"] = [refusal("UNAVAILABLE", "OVERLOADED", { retryAfterMs: 200 })];
    const begun = performance.now();
    await assert.rejects(client.getReply("reply-1"), Overloaded);
    assert.ok(performance.now() - begun < 2_000);
    assert.ok(server.calls.length >= 2 && server.calls.length <= 4, `${server.calls.length} calls`);
  },
  { backoff: { maxElapsedMs: 700, firstMs: 1, maxMs: 1 } },
);

scripted("a refusal is typed and not retried", async (server, client) => {
  server.unary["GetReply"] = [refusal("NOT_FOUND", "REPLY_NOT_FOUND")];
  await assert.rejects(client.getReply("reply-1"), (error) => {
    assert.ok(error instanceof ReplyNotFound);
    return error.message === "as scripted";
  });
  assert.equal(server.calls.length, 1);
});

scripted("pages are read on demand", async (server, client) => {
  server.unary["ListConversations"] = (request) => {
    const number = Number((request as ListConversationsRequest).pageToken || "0");
    const conversations = [0, 1].map((i) => ({ id: `c${2 * number + i}` }));
    return { conversations, nextPageToken: number < 2 ? String(number + 1) : "" };
  };
  const listing = client.conversations.list({ query: "x", pageSize: 2 });
  assert.equal(((await listing.next()).value as { id: string }).id, "c0");
  assert.equal(server.calls.length, 1);
  assert.deepEqual(
    (await all(listing)).map(({ id }) => id),
    ["c1", "c2", "c3", "c4", "c5"],
  );
  const requests = server.calls.map(({ request }) => request as ListConversationsRequest);
  assert.deepEqual(
    requests.map(({ pageToken, query, pageSize }) => [pageToken, query, pageSize]),
    [
      ["", "x", 2],
      ["1", "x", 2],
      ["2", "x", 2],
    ],
  );
});

scripted("the other conversation calls", async (server, client) => {
  const conversation: MessageInitShape<typeof ConversationSchema> = { id: "c", title: "t" };
  const message = { id: "m", role: Role.USER };
  server.unary["CreateConversation"] = server.unary["GetConversation"] = [conversation];
  server.unary["DeleteConversation"] = [{}];
  server.unary["ListMessages"] = [{ messages: [message] }];
  server.unary["GetImage"] = [{ source: { case: "data", value: Buffer.from("x") } }];
  assert.equal((await client.conversations.create(conversation, { messages: [message] })).title, "t");
  const made = server.calls[0]?.request as CreateConversationRequest;
  assert.ok(made.requestId);
  assert.equal(made.messages[0]?.id, "m");
  assert.equal((await client.conversations.get("c")).title, "t");
  assert.deepEqual(
    (await all(client.conversations.messages("c"))).map(({ id }) => id),
    ["m"],
  );
  const { source } = await client.conversations.image("i");
  assert.deepEqual([source.case, Buffer.from(source.value as Uint8Array).toString()], ["data", "x"]);
  await client.conversations.delete("c", { etag: "e" });
  const { conversationId, etag } = server.calls.at(-1)?.request as DeleteConversationRequest;
  assert.deepEqual([conversationId, etag], ["c", "e"]);
});

scripted("polls follow the cursor to the end", async (server, client) => {
  const answers = [
    { chunks: [text(2, "a")], afterSequence: 2 },
    { afterSequence: 2 },
    { chunks: [text(3, "b"), finished(4)], afterSequence: 4 },
  ].map((answer) => create(PollReplyResponseSchema, answer));
  server.unary["PollReply"] = [...answers];
  assert.deepEqual(await all(client.polls("reply-1", { waitMs: 1_000 })), answers);
  const cursors = server.calls.map(({ request }) => (request as PollReplyRequest).afterSequence);
  assert.deepEqual(cursors, [0, 2, 2]);
});

scripted("models and quotas", async (server, client) => {
  server.unary["ListModels"] = [{ models: [{ alias: "fast" }] }];
  server.unary["GetQuota"] = [{ quotas: [{ name: "q", limit: 9_007_199_254_740_993n }] }];
  assert.deepEqual(
    (await client.models()).map(({ alias }) => alias),
    ["fast"],
  );
  assert.equal((await client.quotas())[0]?.limit, 9_007_199_254_740_993n);
});

scripted("cancel requires one target", async (server, client) => {
  server.unary["Cancel"] = [REPLY];
  assert.deepEqual(await client.cancel({ conversationId: "c" }, { reason: "stop" }), REPLY);
  const expected = create(CancelRequestSchema, {
    target: { case: "conversationId", value: "c" },
    reason: "stop",
  });
  assert.ok(equals(CancelRequestSchema, server.calls[0]?.request as typeof expected, expected));
  for (const target of [{ conversationId: "c", replyId: "r" }, {}]) {
    await assert.rejects(client.cancel(target as CancelTarget), TypeError);
  }
  assert.equal(server.calls.length, 1);
});

scripted(
  "aborting a call, or closing its client, ends a pause between attempts",
  async (server, client) => {
    let called = (): void => {};
    server.unary["GetReply"] = () => {
      called();
      return BARE;
    };
    const controller = new AbortController();
    const first = new Promise<void>((resolve) => (called = resolve));
    const aborted = assert.rejects(client.getReply("r", { signal: controller.signal }), {
      name: "AbortError",
    });
    await first;
    controller.abort();
    await aborted;
    assert.equal(getEventListeners(controller.signal, "abort").length, 0);
    const second = new Promise<void>((resolve) => (called = resolve));
    const failed = assert.rejects(client.getReply("r"), /closed/);
    await second;
    client.close();
    await failed;
    await assert.rejects(client.getReply("r"), Unavailable);
  },
  { backoff: { firstMs: 30_000, maxMs: 30_000, maxElapsedMs: 600_000 } },
);

scripted(
  "a call that takes too long is DeadlineExceeded and not retried",
  async (server, client) => {
    server.unary["GetReply"] = [REPLY];
    await client.getReply("r");
    server.proxy.stall();
    await assert.rejects(client.getReply("r"), DeadlineExceeded);
  },
  { callTimeoutMs: 500 },
);
