import assert from "node:assert/strict";
import { test } from "node:test";
import { Patience } from "../src/backoff.js";

const BACKOFF = { firstMs: 100, maxMs: 5_000, maxElapsedMs: 60_000 };

for (const [chance, expected] of [
  [0, [50, 100, 200, 400, 800, 1_600, 2_500, 2_500]],
  [1, [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000]],
] as const) {
  test(`with random ${chance} each delay is at that end of its range`, () => {
    const patience = new Patience(
      BACKOFF,
      () => 0,
      () => chance,
    );
    assert.deepEqual(
      expected.map(() => patience.failed()),
      expected,
    );
    assert.equal(patience.attempts, 8);
  });
}

test("the delay stays finite after thousands of failures", () => {
  const patience = new Patience(
    { ...BACKOFF, maxElapsedMs: Infinity },
    () => 0,
    () => 1,
  );
  for (let i = 0; i < 5_000; i++) assert.ok(patience.failed()! <= 5_000);
});

test("retries stop after the time without progress", () => {
  let now = 0;
  const patience = new Patience(
    { ...BACKOFF, maxElapsedMs: 1_000 },
    () => now,
    () => 1,
  );
  assert.equal(patience.failed(), 100);
  now = 700;
  assert.equal(patience.failed(), 200);
  assert.equal(patience.failed(), undefined);
  patience.progressed();
  assert.equal(patience.failed(), 100);
  assert.equal(patience.attempts, 1);
});

test("retryAfterMs is a lower bound of the delay", () => {
  const patience = new Patience(
    BACKOFF,
    () => 0,
    () => 1,
  );
  assert.equal(patience.failed(3_000), 3_000);
  assert.equal(patience.failed(1), 200);
});

test("a client that never reached a server stops after 5 seconds", () => {
  let now = 0;
  const patience = new Patience(
    { ...BACKOFF, maxElapsedMs: Infinity },
    () => now,
    () => 1,
  );
  patience.tries();
  now = 4_900;
  assert.equal(patience.failed(0, false), 100);
  patience.tries();
  assert.equal(patience.failed(0, false), undefined);
  assert.equal(patience.failed(0, true), 200);
});

test("a maxElapsedMs of zero disables retries", () => {
  assert.equal(new Patience({ ...BACKOFF, maxElapsedMs: 0 }).failed(), undefined);
});
