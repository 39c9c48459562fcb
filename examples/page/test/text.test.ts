import { describe, expect, test } from "vitest";
import { age, cost, tokens } from "../src/text/ages";
import { duration, ended, sentence } from "../src/text/sentences";
import { failure } from "../src/wire/events";

const NOW = Date.parse("2026-11-29T12:00:00Z");

test.each([
  ["2026-11-29T11:59:30Z", "now"],
  ["2026-11-29T12:00:30Z", "now"],
  ["2026-11-29T11:55:00Z", "5 min"],
  ["2026-11-29T09:00:00Z", "3 h"],
  ["2026-11-27T11:00:00Z", "2 d"],
  ["2026-10-01T12:00:00Z", "Oct 1, 2026"],
  ["never", ""],
])("the age of %s is %j", (time, expected) => expect(age(time, NOW)).toBe(expected));

test.each([
  [null, ""],
  [0, "$0"],
  [0.00083, "$0.00083"],
  [0.000000412, "$4.1e-7"],
  [0.126, "$0.13"],
])("the cost %s is %j", (usd, expected) => expect(cost(usd)).toBe(expected));

test("tokens", () => {
  expect(tokens(1200, 34)).toBe("1,200 in + 34 out tokens");
  expect(tokens(null, 7)).toBe("7 out tokens");
  expect(tokens(null, null)).toBe("");
});

describe("sentences", () => {
  const limited = failure("RATE_LIMITED", "messages_per_minute: 10 of 10");

  test.each([
    [12_000, "You have reached your limit. You can write again in 12 s."],
    [11_001, "You have reached your limit. You can write again in 12 s."],
    [600_000, "You have reached your limit. You can write again in 10 min."],
    [0, "You had reached your limit. You can write again now."],
    [null, "You have reached your limit. Please try again later."],
  ])("a limit with %s ms left", (leftMs, expected) => expect(sentence(limited, leftMs)).toBe(expected));

  test("known codes have a sentence of the page, unknown ones that of the backend", () => {
    expect(sentence(failure("OVERLOADED", "at its limit of 512 replies"))).toMatch(/^The service is busy/);
    expect(sentence(failure("SOMETHING_NEW", "Please call Ada."))).toBe("Please call Ada.");
    expect(sentence(failure("HTTP_500", ""))).toBe("Something went wrong.");
  });

  test("durations are rounded up", () => {
    expect([1, 118_001, 120_001, 7_200_000].map(duration)).toEqual(["1 s", "119 s", "3 min", "2 h"]);
  });

  test("an answer that is complete needs no words", () => {
    expect(["STOP", "", "OTHER"].map(ended)).toEqual(["", "", ""]);
    expect(ended("TIME_LIMIT")).toBe("Stopped at the time limit.");
  });
});
