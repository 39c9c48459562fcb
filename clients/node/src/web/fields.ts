/** Reads the fields of a request that a browser sent. Throws `Refused` with status 400. */

import type { IncomingHttpHeaders } from "node:http";
import { Refused } from "./refusal.js";

/** A text field of a JSON body; empty if it is absent. */
export function textOf(body: unknown, name: string): string {
  const value = objectOf(body)[name];
  if (value === undefined) return "";
  if (typeof value !== "string") throw new Refused(400, `${name} must be a text.`);
  return value;
}

/** A text field that must have more than white space. */
export function requiredText(body: unknown, name: string): string {
  const value = textOf(body, name);
  if (!value.trim()) throw new Refused(400, `${name} is missing.`);
  return value;
}

/** The header `Idempotency-Key`, which becomes the `requestId`: a repeated request does not generate twice. */
export function idempotencyKey(headers: IncomingHttpHeaders): string | undefined {
  const key = headers["idempotency-key"];
  return typeof key === "string" && key ? key : undefined;
}

function objectOf(body: unknown): Readonly<Record<string, unknown>> {
  if (typeof body !== "object" || body === null || Array.isArray(body)) {
    throw new Refused(400, "The request must be a JSON object.");
  }
  const fields = body as Readonly<Record<string, unknown>>;
  // JavaScript reads 1e999 as infinity, which JSON cannot express.
  if (Object.values(fields).includes(Infinity))
    throw new Refused(400, "The request has a number that is too large.");
  return fields;
}
