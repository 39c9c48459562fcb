/** Credentials from a function, refusals of identity and limits, and the calls of Admin. */

import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { describe, test } from "node:test";
import { create } from "@bufbuild/protobuf";
import { timestampDate } from "@bufbuild/protobuf/wkt";
import { Connection } from "../src/connection.js";
import { settingsOf } from "../src/settings.js";
import { Wire } from "../src/wire.js";
import {
  Client,
  ConnectionLost,
  CredentialFailed,
  Forbidden,
  QuotaExceeded,
  RateLimited,
  Unauthenticated,
  Unavailable,
  type Credential,
  type ReplyEvent,
} from "../src/index.js";
import {
  GetStatusResponseSchema,
  ListProviderKeysResponseSchema,
  ListUsageRequest_GroupBy as GroupBy,
  ListUsageResponseSchema,
  ProviderKeySchema,
  DeleteProviderKeyResponseSchema,
  QuotaSchema,
  ReplySchema,
  UsageRowSchema,
  type ListUsageRequest,
} from "../src/v1.js";
import { Abort, Scripted, accepted, chunk, finished, refusal, text, texts } from "./scripted.js";

const BARE = new Abort("UNAVAILABLE");
const REPLY = create(ReplySchema, { id: "reply-1" });
const QUICK = { firstMs: 1, maxMs: 10, maxElapsedMs: 5_000 };

function scripted(
  name: string,
  body: (
    server: Scripted,
    clientWith: (apiKey?: Credential, maxElapsedMs?: number) => Client,
  ) => Promise<void>,
): void {
  test(name, async () => {
    await using server = await Scripted.start();
    const clients: Client[] = [];
    try {
      await body(server, (apiKey = "key", maxElapsedMs = 5_000) => {
        clients.push(
          new Client(server.address, { apiKey, endUser: "ada", backoff: { ...QUICK, maxElapsedMs } }),
        );
        return clients.at(-1)!;
      });
    } finally {
      for (const client of clients) client.close();
    }
  });
}

async function all<T>(found: AsyncIterable<T>): Promise<T[]> {
  const items: T[] = [];
  for await (const item of found) items.push(item);
  return items;
}

function credentials(server: Scripted): unknown[] {
  return server.calls.flatMap(({ metadata }) => metadata.get("authorization"));
}

function numbered(): () => string {
  let count = 0;
  return () => `token-${++count}`;
}

for (const kind of ["direct", "promise"]) {
  scripted(`each attempt has a new credential: ${kind}`, async (server, clientWith) => {
    const give = numbered();
    const client = clientWith(kind === "direct" ? give : async () => give());
    server.unary["GetReply"] = [BARE, REPLY];
    assert.deepEqual(await client.getReply("reply-1"), REPLY);
    server.log = [...texts("a", "b"), finished(3)];
    server.cuts.push({ after: 2, how: BARE }, { after: 2, how: BARE });
    const stream = client.actingFor("ben").streamReply("Hi");
    await all(stream);
    assert.equal(stream.text, "ab");
    const methods = server.calls.map(({ method }) => method);
    assert.deepEqual(methods, ["GetReply", "GetReply", "StreamReply", "ResumeReply", "ResumeReply"]);
    assert.deepEqual(
      credentials(server),
      [1, 2, 3, 4, 5].map((number) => `Bearer token-${number}`),
    );
    assert.deepEqual(server.calls[4]!.metadata.get("x-end-user"), ["ben"]);
  });
}

describe("a function that fails sends nothing", () => {
  const failing: [string, Credential, RegExp][] = [
    [
      "throws",
      () => {
        throw new RangeError("secret");
      },
      /failed with RangeError$/,
    ],
    ["rejects", () => Promise.reject(new RangeError("secret")), /failed with RangeError$/],
    ["empty", () => "", /failed with TypeError$/],
    ["not ASCII", () => "Zoë", /failed with TypeError$/],
    ["no string", (() => 5) as unknown as Credential, /failed with TypeError$/],
  ];
  for (const [name, apiKey, message] of failing) {
    scripted(name, async (server, clientWith) => {
      const client = clientWith(apiKey);
      for (const attempt of [client.getReply("reply-1"), client.streamReply("Hi").next()]) {
        await assert.rejects(attempt, (error) => {
          assert.ok(error instanceof CredentialFailed && error.cause instanceof Error);
          assert.match(error.message, message);
          return true;
        });
      }
      assert.equal(server.calls.length, 0);
    });
  }
});

test("a function that hangs ends with its time limit", async () => {
  await using server = await Scripted.start();
  const apiKey = () => new Promise<string>(() => {});
  const connection = new Connection(new Wire(server.address, false, {}), settingsOf({ apiKey }), 20);
  using client = new Client(connection);
  await assert.rejects(client.getReply("reply-1"), (error) => {
    assert.ok(error instanceof CredentialFailed);
    assert.match(error.message, /did not return within 0\.02 s$/);
    return true;
  });
});

for (const end of ["close the client", "close the stream", "abort"]) {
  scripted(`the wait for a credential ends: ${end}`, async (server, clientWith) => {
    let resolve = () => {};
    const asked = new Promise<void>((asked) => (resolve = asked));
    const client = clientWith(() => {
      resolve();
      return new Promise<string>(() => {});
    });
    const controller = new AbortController();
    const stream = client.streamReply("Hi", { signal: controller.signal });
    const next = stream.next();
    await asked;
    if (end === "close the client") {
      client.close();
      await assert.rejects(next, Unavailable);
    } else if (end === "abort") {
      controller.abort(new Error("left"));
      await assert.rejects(next, /left/);
    } else {
      stream.close();
      assert.deepEqual(await next, { done: true, value: undefined });
    }
    assert.equal(getEventListeners(controller.signal, "abort").length, 0);
    assert.equal(server.calls.length, 0);
  });
}

scripted("an aborted call does not wait for its credential", async (server, clientWith) => {
  const client = clientWith(() => new Promise<string>(() => {}));
  const signal = AbortSignal.timeout(1);
  await assert.rejects(client.getReply("reply-1", { signal }), { name: "TimeoutError" });
  assert.equal(getEventListeners(signal, "abort").length, 0);
  assert.equal(server.calls.length, 0);
});

scripted("a function that fails once does not end an accepted stream", async (server, clientWith) => {
  const given = ["token-1", "", "token-3"];
  const client = clientWith(() => given.shift() ?? "");
  server.log = [...texts("a", "b"), finished(3)];
  server.cuts.push({ after: 2, how: BARE });
  const events: ReplyEvent[] = await all(client.streamReply("Hi"));
  const errors = events.flatMap((event) => (event.type === "reconnecting" ? [event.error.name] : []));
  assert.deepEqual(errors, ["Unavailable", "CredentialFailed"]);
  assert.deepEqual(credentials(server), ["Bearer token-1", "Bearer token-3"]);
});

scripted("a function that fails for long leaves the cursor", async (server, clientWith) => {
  const given = ["token-1"];
  const client = clientWith(() => given.shift() ?? "", 50);
  server.scripts.push([accepted(), text(1, "a"), BARE]);
  await assert.rejects(all(client.streamReply("Hi")), (error) => {
    assert.ok(error instanceof ConnectionLost);
    assert.deepEqual([error.replyId, error.sequence, error.text], ["reply-1", 1, "a"]);
    return true;
  });
});

const LASTING = [
  ["UNAUTHENTICATED", "UNAUTHENTICATED", Unauthenticated],
  ["PERMISSION_DENIED", "FORBIDDEN", Forbidden],
  ["RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED", QuotaExceeded],
] as const;
for (const [code, reason, kind] of LASTING) {
  scripted(`not retried: ${reason}`, async (server, clientWith) => {
    const refused = refusal(code, reason, { retryAfterMs: 1 });
    server.unary["CreateReply"] = [refused];
    server.scripts.push([refused]);
    const client = clientWith();
    await assert.rejects(client.createReply("Hi"), kind);
    await assert.rejects(client.streamReply("Hi").next(), kind);
    assert.equal(server.calls.length, 2);
  });
}

const PASSING = [
  ["RESOURCE_EXHAUSTED", "RATE_LIMITED"],
  ["UNAVAILABLE", "IDENTITY_UNAVAILABLE"],
] as const;
for (const [code, reason] of PASSING) {
  scripted(`retried after its wait: ${reason}`, async (server, clientWith) => {
    const refused = refusal(code, reason, { retryable: true, retryAfterMs: 30 });
    server.unary["CreateReply"] = [refused, REPLY];
    server.log = [text(1, "a"), finished(2)];
    server.scripts.push([refused]);
    const client = clientWith();
    assert.deepEqual(await client.createReply("Hi"), REPLY);
    const [first] = await all(client.streamReply("Hi"));
    assert.ok(first?.type === "reconnecting" && first.delayMs >= 30);
    assert.equal(server.calls.length, 4);
  });

  scripted(`not retried beyond the client's own limit: ${reason}`, async (server, clientWith) => {
    server.unary["CreateReply"] = [refusal(code, reason, { retryable: true, retryAfterMs: 6_000 })];
    await assert.rejects(clientWith().createReply("Hi"), { reason, retryAfterMs: 6_000 });
    assert.equal(server.calls.length, 1);
  });
}

test("the properties of a limit", () => {
  const metadata = { limit: "cost_nano_usd_per_month", used: "9007199254740993", max: "2", needed: "3" };
  const error = new QuotaExceeded("full", {
    code: "RESOURCE_EXHAUSTED",
    metadata: { ...metadata, subject: "tenant", reset_time: "2026-12-01T00:00:00Z" },
  });
  const { limit, used, max, needed, subject, resetTime } = error;
  assert.deepEqual(
    { limit, used, max, needed },
    { ...metadata, used: 9007199254740993n, max: 2n, needed: 3n },
  );
  assert.deepEqual([subject, resetTime], ["tenant", new Date(Date.UTC(2026, 11, 1))]);
  const unreadable: Record<string, string>[] = [
    {},
    { used: "many", max: "", needed: "1e9", reset_time: "soon" },
  ];
  for (const wrong of unreadable) {
    const empty = new RateLimited("later", { code: "RESOURCE_EXHAUSTED", metadata: wrong });
    assert.deepEqual([empty.used, empty.max, empty.needed, empty.resetTime], Array(4).fill(undefined));
  }
});

scripted("the quota of the acceptance is shown", async (server, clientWith) => {
  const quota = create(QuotaSchema, { name: "tokens_per_day", limit: 200_000n, used: 150_000n });
  const first = chunk(0, { case: "accepted", value: { quota } }, "reply-1");
  server.scripts.push([first, finished(1)], [accepted(), finished(1)]);
  const client = clientWith();
  for (const expected of [quota, undefined]) {
    const [shown] = await all(client.streamReply("Hi"));
    assert.ok(shown?.type === "accepted");
    assert.deepEqual(shown.quota, expected);
  }
});

scripted("provider keys are stored, listed over all pages, and deleted", async (server, clientWith) => {
  const keys = ["a", "b", "c"].map((provider) => create(ProviderKeySchema, { provider }));
  server.unary["SetProviderKey"] = [keys[0]!];
  server.unary["DeleteProviderKey"] = [create(DeleteProviderKeyResponseSchema)];
  server.unary["ListProviderKeys"] = [
    create(ListProviderKeysResponseSchema, { keys: keys.slice(0, 2), nextPageToken: "more" }),
    create(ListProviderKeysResponseSchema, { keys: keys.slice(2) }),
  ];
  const { admin } = clientWith();
  assert.deepEqual(await admin.setProviderKey("a", "a-key", { tenant: "shop", verify: true }), keys[0]);
  assert.deepEqual(await all(admin.providerKeys({ pageSize: 2 })), keys);
  await admin.deleteProviderKey("a", { tenant: "shop" });
  const [set, first, second, deleted] = server.calls.map(({ request }) => request);
  const { $typeName: _, ...fields } = set as unknown as Record<string, unknown>;
  assert.deepEqual(fields, { provider: "a", apiKey: "a-key", tenant: "shop", verify: true });
  assert.deepEqual(
    [first, second].map((each) => (each as unknown as { pageToken: string }).pageToken),
    ["", "more"],
  );
  assert.equal((deleted as unknown as { tenant: string }).tenant, "shop");
});

scripted("usage is read from all pages with the same filters", async (server, clientWith) => {
  const rows = [1n, 2n].map((replies) => create(UsageRowSchema, { replies }));
  server.unary["ListUsage"] = [
    create(ListUsageResponseSchema, { rows: rows.slice(0, 1), nextPageToken: "more" }),
    create(ListUsageResponseSchema, { rows: rows.slice(1) }),
  ];
  const startTime = new Date(Date.UTC(2026, 10, 1));
  const found = clientWith().admin.usage({
    startTime,
    groupBy: ["day", "endUser"],
    endUser: "ada",
    model: "fast",
  });
  assert.deepEqual(await all(found), rows);
  for (const { request } of server.calls) {
    const { startTime: start, endTime, groupBy, endUser, model } = request as unknown as ListUsageRequest;
    assert.deepEqual(start && timestampDate(start), startTime);
    assert.deepEqual([endTime, endUser, model], [undefined, "ada", "fast"]);
    assert.deepEqual(groupBy, [GroupBy.DAY, GroupBy.END_USER]);
  }
});

scripted("the status is read", async (server, clientWith) => {
  const status = create(GetStatusResponseSchema, { problems: ["no replica holds a lease"] });
  server.unary["GetStatus"] = [status];
  assert.deepEqual(await clientWith().admin.status(), status);
  assert.equal(server.calls.length, 1);
});
