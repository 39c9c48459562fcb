/**
 * What is known of one reply: folds chunks into events, by sequence, so that nothing repeats and nothing is lost.
 *
 * Pure: no I/O, no clock. It never throws for a chunk that it does not know.
 */

import { create } from "@bufbuild/protobuf";
import { ReplyFailed } from "./errors.js";
import { finishName, type Accepted, type Finished, type ReplyEvent, type ToolCall } from "./events.js";
import type {
  Accepted as AcceptedChunk,
  Failed,
  Finished as FinishedChunk,
  TokenChunk,
  ToolCallDelta,
} from "./gen/parley/v1/chat_pb.js";
import { ReplyErrorSchema } from "./gen/parley/v1/errors_pb.js";
import { UsageSchema, type Reply } from "./gen/parley/v1/resources_pb.js";
import { failureFields } from "./status.js";

/**
 * The text, the tool calls and the cursor of one reply.
 *
 * `sequence` is where a resume goes on. Content at or below it is dropped; a snapshot replaces what was there; the
 * first terminal chunk ends it, and nothing after that counts.
 */
export class Transcript {
  text = "";
  accepted: Accepted | undefined;
  finished: Finished | undefined;
  failure: ReplyFailed | undefined;
  #toolCalls = new Map<number, ToolCall>();

  constructor(
    public replyId = "",
    public sequence = 0,
  ) {}

  /** The tool calls so far, each with its arguments joined, by index. */
  get toolCalls(): readonly ToolCall[] {
    return [...this.#toolCalls.values()].sort((a, b) => a.index - b.index);
  }

  /** Whether the terminal chunk has come. */
  get ended(): boolean {
    return this.finished !== undefined || this.failure !== undefined;
  }

  /** The event that this chunk means; undefined where it brings nothing new. A failure is kept in `failure`. */
  apply({ event, sequence, replyId }: TokenChunk): ReplyEvent | undefined {
    if (this.ended) return undefined;
    switch (event.case) {
      case "accepted":
        return this.#accept(event.value, replyId);
      case "heartbeat":
      case "goAway":
        return undefined;
      case "finished":
        return this.#finish(event.value, sequence);
      case "failed":
        return this.#fail(event.value, sequence);
      case "snapshot":
        return sequence < this.sequence ? undefined : this.#replace(event.value, sequence);
      default:
        if (sequence <= this.sequence) return undefined;
        this.sequence = sequence;
        return this.#append(event);
    }
  }

  #append(event: TokenChunk["event"]): ReplyEvent | undefined {
    switch (event.case) {
      case "text":
        this.text += event.value;
        return { type: "text", text: event.value };
      case "reasoning":
        return { type: "reasoning", text: event.value.text };
      case "toolCall":
        return this.#toolCall(event.value);
      case "usage":
        return { type: "usage", usage: event.value };
      default:
        return undefined; // newer than this client
    }
  }

  #accept(chunk: AcceptedChunk, replyId: string): Accepted | undefined {
    if (this.accepted) return undefined;
    this.replyId = replyId || this.replyId;
    const { conversationId, messageId, inputMessageIds, model, replayed } = chunk;
    return (this.accepted = {
      type: "accepted",
      replyId: this.replyId,
      conversationId,
      messageId,
      inputMessageIds,
      model,
      replayed,
    });
  }

  #toolCall({ index, id, name, arguments: piece }: ToolCallDelta): ReplyEvent {
    const before = this.#toolCalls.get(index);
    this.#toolCalls.set(index, {
      index,
      id: before?.id || id,
      name: before?.name || name,
      arguments: (before?.arguments ?? "") + piece,
    });
    return { type: "toolCall", index, id, name, arguments: piece };
  }

  #replace(reply: Reply, sequence: number): ReplyEvent {
    this.sequence = sequence;
    this.text = "";
    this.#toolCalls.clear();
    for (const { content } of reply.message?.parts ?? []) {
      if (content.case === "text") this.text += content.value;
      if (content.case !== "toolCall") continue;
      const { id, name, arguments: json } = content.value;
      this.#toolCalls.set(this.#toolCalls.size, { index: this.#toolCalls.size, id, name, arguments: json });
    }
    return { type: "snapshot", text: this.text, reply };
  }

  #finish(chunk: FinishedChunk, sequence: number): Finished {
    this.sequence = Math.max(this.sequence, sequence);
    return (this.finished = {
      type: "finished",
      reason: finishName(chunk.reason),
      text: this.text,
      model: chunk.model,
      cancelReason: chunk.cancelReason,
      usage: chunk.usage ?? create(UsageSchema),
    });
  }

  #fail(chunk: Failed, sequence: number): undefined {
    this.sequence = Math.max(this.sequence, sequence);
    const error = chunk.error ?? create(ReplyErrorSchema);
    this.failure = new ReplyFailed(error.message, failureFields(error), {
      text: this.text,
      replyId: this.replyId,
      messageId: this.accepted?.messageId ?? "",
      usage: chunk.usage ?? create(UsageSchema),
    });
  }
}
