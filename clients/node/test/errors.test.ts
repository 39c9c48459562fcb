import assert from "node:assert/strict";
import { test } from "node:test";
import { Metadata, status } from "@grpc/grpc-js";
import { toBinary } from "@bufbuild/protobuf";
import * as errors from "../src/errors.js";
import type { Code } from "../src/errors.js";
import { endsReply, errorOfProto, errorOfStatus, mayRetry } from "../src/status.js";
import { ErrorReason, ReplyErrorSchema } from "../src/v1.js";
import { replyError } from "./scripted.js";

const REASONS = Object.keys(ErrorReason).filter((key) => Number.isNaN(Number(key)) && key !== "UNSPECIFIED");

function ended(code: Code, trailer?: Buffer) {
  const metadata = new Metadata();
  if (trailer) metadata.set("parley-error-bin", trailer);
  return errorOfStatus({ code: status[code], details: "bare", metadata });
}

test("every reason of the contract has a class", () => {
  assert.ok(REASONS.length >= 34);
  for (const reason of REASONS) {
    const error = errorOfProto(replyError("UNKNOWN", reason as "INTERNAL"));
    assert.equal(error.reason, reason);
    assert.notEqual(error.constructor, errors.ParleyError, reason);
    const exported: Partial<Record<string, unknown>> = errors;
    assert.equal(error.constructor, exported[error.name], `${error.name} is not the name of its class`);
  }
});

test("all fields of the error trailer are read", () => {
  const proto = replyError("RESOURCE_EXHAUSTED", "RATE_LIMITED", {
    retryable: true,
    retryAfterMs: 1_500,
    metadata: { limit: "messages_per_minute" },
  });
  const error = ended("RESOURCE_EXHAUSTED", Buffer.from(toBinary(ReplyErrorSchema, proto)));
  assert.ok(error instanceof errors.RateLimited && error instanceof errors.LimitExceeded);
  const { code, message, retryable, retryAfterMs, metadata } = error;
  assert.deepEqual(
    { code, message, retryable, retryAfterMs, metadata },
    {
      code: "RESOURCE_EXHAUSTED",
      message: "as scripted",
      retryable: true,
      retryAfterMs: 1_500,
      metadata: { limit: "messages_per_minute" },
    },
  );
});

test("an unknown reason gives the class of its status code", () => {
  const error = errorOfProto({ ...replyError("NOT_FOUND", "INTERNAL"), reason: 99 as ErrorReason });
  assert.equal(error.constructor, errors.NotFound);
  assert.equal(error.reason, "UNKNOWN_99");
});

test("an invalid trailer gives the class of the status code", () => {
  const error = ended("NOT_FOUND", Buffer.from([0xff, 0xff]));
  assert.equal(error.constructor, errors.NotFound);
  assert.deepEqual([error.reason, error.message], ["", "bare"]);
});

test("ReplyInProgress has the id of the running reply", () => {
  const error = errorOfProto(replyError("ABORTED", "REPLY_IN_PROGRESS", { metadata: { reply_id: "r" } }));
  assert.ok(error instanceof errors.ReplyInProgress);
  assert.equal(error.replyId, "r");
});

test("which errors are retried, and which end a reply", () => {
  const cuts = (["UNAVAILABLE", "CANCELLED", "INTERNAL", "UNKNOWN"] as const).map((code) => ended(code));
  assert.ok(cuts.every(mayRetry));
  assert.ok(mayRetry(errorOfProto(replyError("UNAVAILABLE", "DRAINING"))));
  const verdicts = [
    errorOfProto(replyError("INTERNAL", "INTERNAL")),
    ended("DEADLINE_EXCEEDED"),
    ended("RESOURCE_EXHAUSTED"),
    errorOfProto(replyError("ABORTED", "OWNER_LOST")),
  ];
  assert.deepEqual(verdicts.map(mayRetry), [false, false, false, false]);
  assert.deepEqual(verdicts.map(endsReply), [true, false, false, true]);
});
