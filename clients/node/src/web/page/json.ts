/** The JSON of the page routes: snake_case, times in RFC 3339. */

import { timestampDate, type Timestamp } from "@bufbuild/protobuf/wkt";
import type { ListMessagesResponse } from "../../gen/parley/v1/conversations_pb.js";
import {
  FinishReason,
  Reply_State,
  Role,
  type Conversation,
  type Message,
  type Reply,
  type Usage,
} from "../../gen/parley/v1/resources_pb.js";
import { errorOfProto } from "../../status.js";
import { refusal } from "../refusal.js";

const STATES: Readonly<Partial<Record<Reply_State, string>>> = {
  [Reply_State.COMPLETED]: "completed",
  [Reply_State.CANCELLED]: "cancelled",
  [Reply_State.FAILED]: "failed",
};

export function conversationJson({ id, title, createTime, updateTime, activeReplyId }: Conversation) {
  return {
    id,
    title,
    create_time: timeJson(createTime),
    update_time: timeJson(updateTime),
    active_reply_id: activeReplyId || null,
  };
}

/**
 * The messages of a page, oldest first, with the replies that wrote them. A reply that ended without a message is listed
 * as an empty answer after the message that it follows.
 */
export function messagesJson({ messages, replies }: ListMessagesResponse) {
  const byId = new Map(replies.map((reply) => [reply.id, reply]));
  const written = new Set(messages.map(({ replyId }) => replyId));
  const unanswered = replies.filter(({ id, state }) => !written.has(id) && state in STATES);
  const listed = new Set(messages.map(({ id }) => id));
  // The message that the oldest of them follows can be on the next page.
  const first = unanswered.filter(({ parentMessageId }) => !listed.has(parentMessageId));
  const shown = first.map(emptyAnswer);
  for (const message of messages.toReversed()) {
    if (message.role !== Role.TOOL) shown.push(messageJson(message, byId.get(message.replyId)));
    shown.push(
      ...unanswered.filter(({ parentMessageId }) => parentMessageId === message.id).map(emptyAnswer),
    );
  }
  return shown;
}

export function costUsd(usage: Usage | undefined): number | null {
  return usage?.costNanoUsd === undefined ? null : Number(usage.costNanoUsd) / 1e9;
}

function messageJson({ id, role, parts, partial, createTime }: Message, reply: Reply | undefined) {
  return {
    id,
    role: role === Role.USER ? "user" : "assistant",
    text: parts.map(({ content }) => (content.case === "text" ? content.value : "")).join(""),
    images: parts.flatMap(imageJson),
    partial,
    create_time: timeJson(createTime),
    reply: reply ? replyJson(reply) : null,
  };
}

/** Only images that Parley has: the page loads nothing from other hosts. */
function imageJson({ content }: Message["parts"][number]) {
  if (content.case !== "image" || content.value.source.case !== "imageId") return [];
  return [{ id: content.value.source.value, mime_type: content.value.mimeType }];
}

function emptyAnswer(reply: Reply): ReturnType<typeof messageJson> {
  const create_time = timeJson(reply.createTime);
  const known = { text: "", images: [], partial: true, create_time, reply: replyJson(reply) };
  return { id: reply.messageId, role: "assistant", ...known };
}

function replyJson({ id, state, model, finishReason, usage, error }: Reply) {
  return {
    id,
    state: STATES[state] ?? "running",
    model,
    finish_reason: finishReason === FinishReason.UNSPECIFIED ? null : (FinishReason[finishReason] ?? "OTHER"),
    input_tokens: usage?.promptTokens ?? 0,
    output_tokens: usage?.completionTokens ?? 0,
    cost_usd: costUsd(usage),
    error: error ? refusal(errorOfProto(error)).body : null,
  };
}

function timeJson(time: Timestamp | undefined): string | null {
  return time ? timestampDate(time).toISOString() : null;
}
