/**
 * Converts the chunks of one reply to events, and drops repeated chunks by their sequence.
 *
 * It uses no I/O and no clock, and ignores chunks of an unknown kind.
 */

import { create } from "@bufbuild/protobuf";
import { ReplyFailed } from "./errors.js";
import type { Accepted, Finished, FinishName, ReplyEvent, ToolCall } from "./events.js";
import type * as chunks from "./gen/parley/v1/chat_pb.js";
import { ReplyErrorSchema } from "./gen/parley/v1/errors_pb.js";
import { FinishReason, UsageSchema, type Reply } from "./gen/parley/v1/resources_pb.js";
import { fieldsOf } from "./status.js";

/**
 * The text, the tool calls and the cursor of one reply.
 *
 * `sequence` is the cursor of a resume. Content at or below it is dropped. A snapshot replaces all content. The first
 * terminal chunk ends the reply; later chunks are dropped.
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

  /** The tool calls so far by index, each with its joined arguments. */
  get toolCalls(): readonly ToolCall[] {
    return [...this.#toolCalls.values()].sort((a, b) => a.index - b.index);
  }

  /** True after the terminal chunk. */
  get ended(): boolean {
    return this.finished !== undefined || this.failure !== undefined;
  }

  /** Returns the event of a chunk; undefined if it has nothing new. The error of a failed reply is set in `failure`. */
  apply({ event, sequence, replyId }: chunks.TokenChunk): ReplyEvent | undefined {
    if (this.ended || event.case === "heartbeat" || event.case === "goAway") return undefined;
    if (event.case === "accepted") return this.#accept(event.value, replyId);
    // A snapshot at the cursor may contain text that was lost; the terminal chunk may have the cursor's sequence.
    const last = event.case === "finished" || event.case === "failed";
    const again = last || (event.case === "snapshot" && sequence === this.sequence);
    if (sequence <= this.sequence && !again) return undefined;
    this.sequence = Math.max(this.sequence, sequence);
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
      case "snapshot":
        return this.#replace(event.value);
      case "finished":
        return this.#finish(event.value);
      case "failed":
        return this.#fail(event.value);
      default:
        return undefined; // a kind that this client does not have
    }
  }

  #accept(chunk: chunks.Accepted, replyId: string): Accepted | undefined {
    if (this.accepted) return undefined;
    this.replyId = replyId || this.replyId;
    const { conversationId, messageId, inputMessageIds, model, replayed, ignoredSettings, quota } = chunk;
    const known = { conversationId, messageId, inputMessageIds, model, replayed, ignoredSettings, quota };
    return (this.accepted = { type: "accepted", replyId: this.replyId, ...known });
  }

  #toolCall({ index, id, name, arguments: piece }: chunks.ToolCallDelta): ReplyEvent {
    const before = this.#toolCalls.get(index) ?? { id: "", name: "", arguments: "" };
    this.#keep({
      index,
      id: before.id || id,
      name: before.name || name,
      arguments: before.arguments + piece,
    });
    return { type: "toolCall", index, id, name, arguments: piece };
  }

  #keep(call: ToolCall): void {
    this.#toolCalls.set(call.index, call);
  }

  #replace(reply: Reply): ReplyEvent {
    this.text = "";
    this.#toolCalls.clear();
    for (const { content } of reply.message?.parts ?? []) {
      if (content.case === "text") this.text += content.value;
      if (content.case !== "toolCall") continue;
      const { id, name, arguments: json } = content.value;
      this.#keep({ index: this.#toolCalls.size, id, name, arguments: json });
    }
    return { type: "snapshot", text: this.text, reply };
  }

  #finish(chunk: chunks.Finished): Finished {
    const { model, provider, cancelReason, usage = create(UsageSchema) } = chunk;
    // The number may be missing in this version of the enum.
    const reason = (FinishReason[chunk.reason] as FinishName | undefined) ?? "OTHER";
    const known = { reason, text: this.text, model, provider, cancelReason, usage };
    return (this.finished = { type: "finished", ...known });
  }

  #fail(chunk: chunks.Failed): undefined {
    const { error = create(ReplyErrorSchema), usage = create(UsageSchema), model, provider } = chunk;
    const { text, replyId, accepted } = this;
    const known = { text, replyId, messageId: accepted?.messageId, usage, model, provider };
    this.failure = new ReplyFailed(error.message, { ...fieldsOf(error), ...known });
  }
}
