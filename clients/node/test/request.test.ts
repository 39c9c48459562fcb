import assert from "node:assert/strict";
import { test } from "node:test";
import { create, equals } from "@bufbuild/protobuf";
import type { ReplyFields } from "../src/fields.js";
import { buildRequest } from "../src/request.js";
import { ConcurrencyPolicy, DisconnectPolicy, ReplyRequestSchema, Role } from "../src/v1.js";

const PNG = Buffer.from("\x89PNG\r\n\x1a\n....", "latin1");

test("every field is set in the request", () => {
  const fields: Required<Omit<ReplyFields, "images" | "input" | "afterMessageId">> = {
    text: "Hi",
    requestId: "r",
    conversationId: "c",
    newConversation: { title: "t" },
    replaceMessageId: "m",
    model: "fast",
    fallbackModels: ["cheap"],
    system: ["be kind"],
    sampling: { temperature: 0 },
    tools: [{ name: "f" }],
    toolChoice: "auto",
    jsonSchema: "{}",
    concurrency: "interrupt",
    onDisconnect: "cancel",
    orphanTtlMs: 1_500,
    timeLimitMs: 60_000,
    labels: { a: "b" },
    heartbeatMs: 2_000.4,
    reasoning: true,
  };
  const expected = create(ReplyRequestSchema, {
    text: "Hi",
    requestId: "r",
    conversationId: "c",
    newConversation: { title: "t" },
    position: { case: "replaceMessageId", value: "m" },
    model: "fast",
    fallbackModels: ["cheap"],
    system: ["be kind"],
    sampling: { temperature: 0 },
    tools: [{ name: "f" }],
    toolChoice: "auto",
    jsonSchema: "{}",
    concurrency: ConcurrencyPolicy.INTERRUPT,
    onDisconnect: DisconnectPolicy.CANCEL,
    orphanTtl: { seconds: 1n, nanos: 500_000_000 },
    timeLimit: { seconds: 60n },
    labels: { a: "b" },
    streamOptions: { heartbeat: { seconds: 2n }, reasoning: true },
  });
  assert.deepEqual(buildRequest(fields), expected);
  assert.deepEqual(buildRequest({ afterMessageId: "m" }).position, { case: "afterMessageId", value: "m" });
  assert.equal(buildRequest({ text: "Hi" }).streamOptions, undefined);
});

test("images and text become one message", () => {
  const images = [PNG, "https://example.com/a.png", { source: { case: "imageId", value: "i" } }] as const;
  const request = buildRequest({ text: "See", images, requestId: "r" });
  const expected = create(ReplyRequestSchema, {
    requestId: "r",
    input: [
      {
        role: Role.USER,
        parts: [
          { content: { case: "text", value: "See" } },
          {
            content: {
              case: "image",
              value: { source: { case: "data", value: PNG }, mimeType: "image/png" },
            },
          },
          {
            content: {
              case: "image",
              value: { source: { case: "url", value: "https://example.com/a.png" } },
            },
          },
          { content: { case: "image", value: { source: { case: "imageId", value: "i" } } } },
        ],
      },
    ],
  });
  assert.ok(equals(ReplyRequestSchema, request, expected));
});

test("a given request is copied with its requestId", () => {
  const given = create(ReplyRequestSchema, { text: "Hi", requestId: "r" });
  const built = buildRequest(given);
  assert.deepEqual(built, given);
  assert.notEqual(built, given);
});

test("each request without a requestId gets a new one", () => {
  const [first, second] = [buildRequest("Hi"), buildRequest("Hi")];
  assert.match(first.requestId, /^[0-9a-f-]{36}$/);
  assert.notEqual(first.requestId, second.requestId);
  assert.equal(first.text, "Hi");
});

for (const fields of [
  { text: "x", images: [Buffer.from("GIF")] },
  { text: "x", images: PNG },
  { system: "be kind" },
  { fallbackModels: "cheap" },
  { afterMessageId: "a", replaceMessageId: "b" },
]) {
  test(`wrong values throw: ${Object.keys(fields).join(", ")}`, () => {
    assert.throws(() => buildRequest(fields as ReplyFields), TypeError);
  });
}
