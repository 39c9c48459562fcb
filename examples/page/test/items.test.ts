import { expect, test } from "vitest";
import type { Message } from "../src/api/types";
import { answer, merge, prepend, question } from "../src/state/items";
import { failure } from "../src/wire/events";

function stored(id: string, role: "user" | "assistant", text: string): Message {
  return { id, role, text, images: [], partial: false, create_time: "", reply: null };
}

const keys = (items: { key: string }[]) => items.map(({ key }) => key);
const FINISHED = { kind: "finished", event: { type: "finished", reason: "STOP", outputTokens: 3 } } as const;

test("stored messages take the keys of those that the page has made, so that nothing is drawn anew", () => {
  const shown = [question("q1", "What?", []), answer("a1", "That.", FINISHED)!];
  const merged = merge(shown, [stored("m1", "user", "What?"), stored("m2", "assistant", "That.")]);
  expect(keys(merged)).toEqual(["q1", "a1"]);
  expect(merged.map(({ id }) => id)).toEqual(["m1", "m2"]);
  expect(keys(merge(merged, [stored("m1", "user", "What?"), stored("m2", "assistant", "That.")]))).toEqual([
    "q1",
    "a1",
  ]);
});

test("older messages stay, and replaced answers go", () => {
  const shown = merge(
    [],
    [stored("m1", "user", "1"), stored("m2", "assistant", "2"), stored("m3", "user", "3")],
  );
  const merged = merge(shown, [
    stored("m2", "assistant", "2"),
    stored("m3", "user", "3"),
    stored("m5", "assistant", "5"),
  ]);
  expect(merged.map(({ id }) => id)).toEqual(["m1", "m2", "m3", "m5"]);
  const retried = merge(merged, [stored("m3", "user", "3"), stored("m6", "assistant", "6")]);
  expect(retried.map(({ id }) => id)).toEqual(["m1", "m2", "m3", "m6"]);
});

test("a question that is not stored stays at the end", () => {
  const shown = [question("q1", "Mine?", [])];
  expect(
    keys(merge(shown, [stored("m1", "user", "Of another tab"), stored("m2", "assistant", "Yes.")])),
  ).toEqual(["m1", "m2", "q1"]);
  expect(keys(merge(shown, []))).toEqual(["q1"]);
});

test("the same question twice has two bubbles", () => {
  const shown = merge([], [stored("m1", "user", "Again?"), stored("m2", "assistant", "Yes.")]);
  const merged = merge(
    [...shown, question("q2", "Again?", [])],
    [stored("m1", "user", "Again?"), stored("m2", "assistant", "Yes."), stored("m3", "user", "Again?")],
  );
  expect(keys(merged)).toEqual(["m1", "m2", "q2"]);
});

test("an older page goes to the front, once", () => {
  const shown = merge([], [stored("m3", "user", "3")]);
  const older = [stored("m1", "user", "1"), stored("m2", "assistant", "2")];
  const all = prepend(shown, older);
  expect(keys(all)).toEqual(["m1", "m2", "m3"]);
  expect(keys(prepend(all, older))).toEqual(["m1", "m2", "m3"]);
});

test("a reply that has ended is shown before its stored message is read", () => {
  const failed = answer("a1", "Half", {
    kind: "failed",
    failure: failure("OWNER_LOST", ""),
    messageId: "m2",
  });
  expect(failed).toMatchObject({
    id: "m2",
    text: "Half",
    reply: { state: "failed", error: { code: "OWNER_LOST" } },
  });
  const stopped = { type: "finished", reason: "CANCELLED" } as const;
  expect(answer("a1", "Half", { kind: "finished", event: stopped })?.reply?.state).toBe("cancelled");
  expect(answer("a1", "", { kind: "settled" })).toBeNull();
});
