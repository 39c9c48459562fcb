/** The events of a reply's stream. Readers can ignore the types that they do not use. */

import type { ParleyError } from "./errors.js";
import type { FinishReason, Quota, Reply, Usage } from "./gen/parley/v1/resources_pb.js";

/** The name of a `FinishReason`, such as "STOP" or "CANCELLED". */
export type FinishName = keyof typeof FinishReason;

/** The user's message and the reply are stored. The first event, and sent only once even if the stream reconnects. */
export interface Accepted {
  readonly type: "accepted";
  readonly replyId: string;
  readonly conversationId: string;
  /** The message for the answer. */
  readonly messageId: string;
  readonly inputMessageIds: readonly string[];
  readonly model: string;
  /** True if an earlier call with the same `requestId` started the reply. */
  readonly replayed: boolean;
  /** The names of the sampling settings that the requested model does not take, such as "temperature". */
  readonly ignoredSettings: readonly string[];
  /** The limit of which the least part is left; undefined without limits, and for a reply that was accepted earlier. */
  readonly quota: Quota | undefined;
}

/** Text to append to the answer. It never splits a code point. */
export interface Text {
  readonly type: "text";
  readonly text: string;
}

/** A piece of the model's reasoning; only with `reasoning: true`. */
export interface Reasoning {
  readonly type: "reasoning";
  readonly text: string;
}

/**
 * A tool call, or a piece of one. The first piece of each `index` has `id` and `name`. The joined `arguments` of all
 * pieces are JSON.
 */
export interface ToolCall {
  readonly index: number;
  readonly id: string;
  readonly name: string;
  readonly arguments: string;
}

/** A piece of a tool call. */
export interface ToolCallDelta extends ToolCall {
  readonly type: "toolCall";
}

/** The tokens so far, as a total. */
export interface UsageUpdate {
  readonly type: "usage";
  readonly usage: Usage;
}

/** Replaces all earlier content: `text` is the whole answer so far. */
export interface Snapshot {
  readonly type: "snapshot";
  readonly text: string;
  readonly reply: Reply;
}

/** The call was cut. The stream continues after `delayMs` without loss or repetition. `attempt` counts from 1. */
export interface Reconnecting {
  readonly type: "reconnecting";
  readonly attempt: number;
  readonly delayMs: number;
  readonly error: ParleyError;
}

/** The last event: the reply completed or was cancelled. */
export interface Finished {
  readonly type: "finished";
  /** The name of a `FinishReason`; OTHER if the client does not have it. */
  readonly reason: FinishName;
  /** The whole answer, from the start of the stream. */
  readonly text: string;
  /** The alias that served the reply; after a failover, not the requested one. */
  readonly model: string;
  /** The provider that served the reply. */
  readonly provider: string;
  readonly cancelReason: string;
  readonly usage: Usage;
}

export type ReplyEvent =
  Accepted | Text | Reasoning | ToolCallDelta | UsageUpdate | Snapshot | Reconnecting | Finished;
