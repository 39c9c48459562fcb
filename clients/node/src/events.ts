/** What a stream of a reply yields. A reader ignores the types that it has no use for. */

import type { ParleyError } from "./errors.js";
import type { FinishReason, Reply, Usage } from "./gen/parley/v1/resources_pb.js";

/** The name of a `FinishReason`, such as "STOP" or "CANCELLED". */
export type FinishName = keyof typeof FinishReason;

/** The user's message and the reply are durable. Comes once, first, however often the stream is resumed. */
export interface Accepted {
  readonly type: "accepted";
  readonly replyId: string;
  readonly conversationId: string;
  /** The message that will hold the answer. */
  readonly messageId: string;
  readonly inputMessageIds: readonly string[];
  readonly model: string;
  /** Whether an earlier call with the same `requestId` had started the reply. */
  readonly replayed: boolean;
}

/** Text to append to the answer: whole code points, never half an emoji. */
export interface Text {
  readonly type: "text";
  readonly text: string;
}

/** A piece of the model's reasoning, where it was asked for. */
export interface Reasoning {
  readonly type: "reasoning";
  readonly text: string;
}

/**
 * A tool call, or a piece of one: `id` and `name` come with the first piece of an `index`, `arguments` (JSON)
 * are to be joined.
 */
export interface ToolCall {
  readonly index: number;
  readonly id: string;
  readonly name: string;
  readonly arguments: string;
}

/** A piece of it, as it comes in a stream. */
export interface ToolCallDelta extends ToolCall {
  readonly type: "toolCall";
}

/** Tokens counted so far: a total, not an increment. */
export interface UsageUpdate {
  readonly type: "usage";
  readonly usage: Usage;
}

/** Replaces everything so far: `text` is the whole answer up to here. */
export interface Snapshot {
  readonly type: "snapshot";
  readonly text: string;
  readonly reply: Reply;
}

/** The call was cut; the stream goes on after `delayMs`, without loss or repetition. `attempt` counts from 1. */
export interface Reconnecting {
  readonly type: "reconnecting";
  readonly attempt: number;
  readonly delayMs: number;
  readonly error: ParleyError;
}

/** The end of a reply that completed or was cancelled, and the last event. */
export interface Finished {
  readonly type: "finished";
  /** The name of a `FinishReason`; one newer than this client reads OTHER. */
  readonly reason: FinishName;
  /** The whole answer, from the stream's starting point on. */
  readonly text: string;
  readonly model: string;
  readonly cancelReason: string;
  readonly usage: Usage;
}

export type ReplyEvent =
  Accepted | Text | Reasoning | ToolCallDelta | UsageUpdate | Snapshot | Reconnecting | Finished;
