/** What each page route does: calls of Parley for one end user, and their answers. */

import type { IncomingHttpHeaders, OutgoingHttpHeaders } from "node:http";
import type { Client } from "../../client.js";
import { ReplyNotFound } from "../../errors.js";
import type { ReplyFields } from "../../fields.js";
import { Reply_State, type Reply } from "../../gen/parley/v1/resources_pb.js";
import type { ReplyStream } from "../../stream.js";
import { idempotencyKey, requiredText, textOf } from "../fields.js";
import { Refused } from "../refusal.js";
import type { ReplyEvents } from "../reply.js";
import { pageEvents } from "./events.js";
import { conversationJson, messagesJson } from "./json.js";

const PAGE_SIZE = 50;

/** One call of a page route. */
export interface PageCall {
  /** The client of the end user. */
  readonly client: Client;
  /** The id in the path. */
  readonly id: string;
  readonly query: URLSearchParams;
  readonly headers: IncomingHttpHeaders;
  readonly body: unknown;
  /** The product's settings of a reply, such as its model. */
  readonly settings: () => Promise<ReplyFields>;
}

/** JSON, bytes or nothing; or a reply to be streamed. */
export type PageAnswer =
  | { readonly status: number; readonly headers?: OutgoingHttpHeaders; readonly body?: object | Uint8Array }
  | { readonly stream: ReplyStream; readonly events: ReplyEvents };

export type PageHandler = (call: PageCall) => Promise<PageAnswer>;

export const listConversations: PageHandler = async ({ client, query }) => {
  const pages = client.conversations.pages({ pageSize: PAGE_SIZE, pageToken: query.get("page_token") ?? "" });
  const { conversations, nextPageToken } = (await pages.next()).value!;
  return json({
    conversations: conversations.map(conversationJson),
    next_page_token: nextPageToken || null,
  });
};

export const getConversation: PageHandler = async ({ client, id }) =>
  json(conversationJson(await client.conversations.get(id)));

export const deleteConversation: PageHandler = async ({ client, id }) => {
  await client.conversations.delete(id);
  return { status: 204 };
};

export const listMessages: PageHandler = async ({ client, id, query }) => {
  // In this order: a reply that ends in between is in the list.
  const { activeReplyId } = await client.conversations.get(id);
  const pageToken = query.get("page_token") ?? "";
  const pages = client.conversations.messagePages(id, { pageSize: PAGE_SIZE, pageToken });
  const page = (await pages.next()).value!;
  const ended = page.replies.some((reply) => reply.id === activeReplyId);
  return json({
    messages: messagesJson(page),
    active_reply_id: (!ended && activeReplyId) || null,
    next_page_token: page.nextPageToken || null,
  });
};

export const getImage: PageHandler = async ({ client, id }) => {
  const { source, mimeType } = await client.conversations.image(id);
  if (source.case !== "data") throw new Refused(404);
  const headers = {
    "content-type": mimeType,
    "x-content-type-options": "nosniff",
    "cache-control": "private, max-age=31536000, immutable",
    "content-security-policy": "sandbox",
  };
  return { status: 200, headers, body: source.value };
};

export const attach: PageHandler = async ({ client, id, query }) => {
  const { activeReplyId } = await client.conversations.get(id);
  if (!activeReplyId) return { status: 204 };
  const after = query.get("reply_id") === activeReplyId ? sequenceOf(query.get("after")) : 0;
  return { stream: client.resume(activeReplyId, { afterSequence: after }), events: pageEvents(after) };
};

export const stop: PageHandler = async ({ client, id, body }) => {
  const requestId = body === undefined ? "" : textOf(body, "request_id");
  try {
    const target = requestId ? { requestId } : { conversationId: id };
    return json({ status: stopped(await client.cancel(target, { reason: "stopped by the user" })) });
  } catch (error) {
    if (!(error instanceof ReplyNotFound)) throw error;
    if (requestId) return json({ status: "cancelled" }, 202); // the request will be accepted as cancelled
    throw new Refused(409, "No answer is being written in this conversation.");
  }
};

export const retry: PageHandler = async ({ client, id, body, headers, settings }) => {
  const replaceMessageId = requiredText(body, "replace_message_id");
  const requestId = idempotencyKey(headers);
  const stream = client.streamReply({
    ...(await settings()),
    conversationId: id,
    replaceMessageId,
    requestId,
  });
  return { stream, events: pageEvents(0) };
};

function json(body: object, status = 200): PageAnswer {
  return { status, headers: { "cache-control": "no-store" }, body };
}

function stopped({ state }: Reply): string {
  return state === Reply_State.COMPLETED || state === Reply_State.FAILED ? "already_finished" : "cancelled";
}

function sequenceOf(text: string | null): number {
  if (text === null || text === "") return 0;
  if (!/^\d{1,9}$/.test(text)) throw new Refused(400, "after must be a whole number.");
  return Number(text);
}
