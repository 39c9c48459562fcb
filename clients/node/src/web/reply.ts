/** Sends the events of a reply to a browser in the product's own words. */

import type { ServerResponse } from "node:http";
import { ConnectionLost, LimitExceeded, ParleyError, ReplyFailed } from "../errors.js";
import type { Accepted, Finished, Reconnecting, ReplyEvent, Snapshot, Text } from "../events.js";
import { ClientClosed } from "../status.js";
import type { ReplyStream } from "../stream.js";
import { refusal, type RefusalBody } from "./refusal.js";
import { EventStream } from "./sse.js";

/** Why a reply failed, for the last event of a stream. */
export interface Failure extends RefusalBody {
  readonly retryAfterMs: number | undefined;
  /** The message for the answer, as `replaceMessageId` of a new attempt; empty if it is not known. */
  readonly messageId: string;
}

/**
 * The product's event for each event of a reply: an object that is sent as JSON, or undefined for none.
 *
 * Without `snapshot`, the text that the browser has can only grow: what a snapshot adds is sent as `text`, and if it
 * replaces text that was sent, the stream ends with a failure of the code TEXT_REPLACED.
 */
export interface ReplyEvents {
  readonly accepted?: (event: Accepted, stream: ReplyStream) => object | undefined;
  readonly text: (event: Text, stream: ReplyStream) => object | undefined;
  readonly snapshot?: (event: Snapshot, stream: ReplyStream) => object | undefined;
  readonly reconnecting?: (event: Reconnecting, stream: ReplyStream) => object | undefined;
  readonly finished: (event: Finished, stream: ReplyStream) => object | undefined;
  readonly failed: (failure: Failure, stream: ReplyStream) => object | undefined;
}

/**
 * How a stream ended: by an event of the reply, because the browser left, or because this server lost or closed its own
 * connection and the browser should attach again.
 */
export type ReplyEnd =
  | { readonly type: "finished"; readonly event: Finished }
  | { readonly type: "failed"; readonly failure: Failure }
  | { readonly type: "left" | "cut" };

export interface SendOptions {
  /** A comment is sent after this time without an event. By default 10,000. */
  readonly keepAliveMs?: number | undefined;
  /**
   * For browsers that can attach again: a lost connection to Parley ends the stream without a last event, since the
   * reply may still run. By default it is a failure.
   */
  readonly attachable?: boolean | undefined;
}

const REPLACED = "Part of this answer was replaced on the server. Reload the conversation to read it.";

/**
 * Waits for the first event of a reply, before which a refusal can still be a status. Throws the error of the refusal, that of a
 * limit at once: a browser can tell its user how long to wait.
 *
 * If the browser leaves, the call ends, and the result is undefined.
 */
export async function firstEvent(
  response: ServerResponse,
  stream: ReplyStream,
): Promise<ReplyEvent | undefined> {
  if (response.destroyed) stream.close();
  else response.once("close", () => stream.close());
  for (;;) {
    const { value } = await stream.next();
    if (value?.type !== "reconnecting") return value;
    if (value.error instanceof LimitExceeded) {
      stream.close();
      throw value.error;
    }
  }
}

/**
 * Reads a reply to its end, for browsers that cannot stream. Throws the error of a refusal, or of a reply that failed.
 *
 * If the browser leaves, the call ends, and the result is undefined.
 */
export async function wholeReply(
  response: ServerResponse,
  stream: ReplyStream,
): Promise<Finished | undefined> {
  for (let event = await firstEvent(response, stream); event; event = (await stream.next()).value) {
    if (event.type === "finished") return event;
  }
  return undefined;
}

/** Sends a reply from its first event to its end, at the pace of the browser. Leaving ends the call, not the reply. */
export async function sendFrom(
  first: ReplyEvent | undefined,
  response: ServerResponse,
  stream: ReplyStream,
  events: ReplyEvents,
  { keepAliveMs, attachable = false }: SendOptions = {},
): Promise<ReplyEnd> {
  if (!first) return { type: "left" };
  const browser = new Browser(new EventStream(response, keepAliveMs), stream, events);
  try {
    for (let event: ReplyEvent | undefined = first; event; event = (await stream.next()).value) {
      const end = await browser.show(event);
      if (end) return end;
    }
    return { type: "left" };
  } catch (error) {
    if (response.destroyed) return { type: "left" };
    if (error instanceof ClientClosed || (attachable && error instanceof ConnectionLost))
      return { type: "cut" };
    const end = await browser.fail(failureOf(error, stream));
    if (!(error instanceof ParleyError)) throw error;
    return end;
  } finally {
    browser.out.end();
    await stream.return();
  }
}

/** Returns the failure of an error that ends a stream. */
export function failureOf(error: unknown, stream: ReplyStream): Failure {
  const messageId = error instanceof ReplyFailed ? error.messageId : stream.messageId;
  const retryAfterMs = error instanceof ParleyError ? error.retryAfterMs : undefined;
  return { ...refusal(error).body, retryAfterMs, messageId };
}

/** What one browser has of a reply. */
class Browser {
  /** The text that was sent. */
  #sent = "";
  /** True if a snapshot replaced text that was sent, and the wire has no event for this. */
  #stale = false;

  constructor(
    readonly out: EventStream,
    private readonly stream: ReplyStream,
    private readonly events: ReplyEvents,
  ) {}

  async show(event: ReplyEvent): Promise<ReplyEnd | undefined> {
    const { out, events, stream } = this;
    if (event.type === "accepted") await out.send(events.accepted?.(event, stream));
    else if (event.type === "reconnecting") await out.send(events.reconnecting?.(event, stream));
    else if (event.type === "text") await this.#append(event.text);
    else if (event.type === "snapshot") await this.#replace(event);
    else if (event.type === "finished") return await this.#finish(event);
    return undefined;
  }

  async fail(failure: Failure): Promise<ReplyEnd> {
    const shown = this.#stale && !(await this.#catchUp()) ? replaced(failure) : failure;
    await this.out.send(this.events.failed(shown, this.stream));
    return { type: "failed", failure: shown };
  }

  async #append(text: string): Promise<void> {
    if (this.#stale || !text) return;
    if (!this.events.snapshot) this.#sent += text;
    await this.out.send(this.events.text({ type: "text", text }, this.stream));
  }

  async #replace(event: Snapshot): Promise<void> {
    if (this.events.snapshot) await this.out.send(this.events.snapshot(event, this.stream));
    else this.#stale = !(await this.#catchUp());
  }

  async #finish(event: Finished): Promise<ReplyEnd> {
    if (this.#stale && !(await this.#catchUp())) return await this.fail(failureOf(undefined, this.stream));
    await this.out.send(this.events.finished(event, this.stream));
    return { type: "finished", event };
  }

  /** Sends what the reply has and the browser has not; returns false if the reply no longer begins with what was sent. */
  async #catchUp(): Promise<boolean> {
    const { text } = this.stream;
    if (!text.startsWith(this.#sent)) return false;
    this.#stale = false;
    await this.#append(text.slice(this.#sent.length));
    return true;
  }
}

function replaced(failure: Failure): Failure {
  return { ...failure, message: REPLACED, error: REPLACED, code: "TEXT_REPLACED", retryable: false };
}
