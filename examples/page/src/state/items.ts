import type { Message, ReplyInfo } from "../api/types";
import type { Picture } from "../wire/events";
import type { Ending } from "./live";

/** A message on the page. `key` stays the same when a message that the page has made is replaced by the stored one. */
export interface Item {
  key: string;
  /** Empty until the stored message has been read. */
  id: string;
  role: "user" | "assistant";
  text: string;
  images: { id: string; mime_type: string }[];
  /** Of a question that this page has sent. */
  pictures: Picture[];
  partial: boolean;
  reply: ReplyInfo | null;
}

export function question(key: string, text: string, pictures: Picture[]): Item {
  return { key, id: "", role: "user", text, images: [], pictures, partial: false, reply: null };
}

/** The item of a reply that has ended, until its stored message is read. Null if the result is unknown. */
export function answer(key: string, text: string, ending: Ending): Item | null {
  if (ending.kind !== "finished" && ending.kind !== "failed") return null;
  const id = ending.kind === "finished" ? (ending.event.messageId ?? "") : ending.messageId;
  return {
    key,
    id,
    role: "assistant",
    text,
    images: [],
    pictures: [],
    partial: false,
    reply: replyOf(ending),
  };
}

function replyOf(ending: Extract<Ending, { kind: "finished" | "failed" }>): ReplyInfo {
  const none = { model: null, finish_reason: null, input_tokens: null, output_tokens: null, cost_usd: null };
  if (ending.kind === "failed") return { id: "", state: "failed", ...none, error: ending.failure };
  const { reason, model, inputTokens, outputTokens, costUsd } = ending.event;
  return {
    id: "",
    state: reason === "CANCELLED" ? "cancelled" : "completed",
    model: model || null,
    finish_reason: reason,
    input_tokens: inputTokens ?? null,
    output_tokens: outputTokens ?? null,
    cost_usd: costUsd ?? null,
    error: null,
  };
}

/**
 * The newest page of stored messages in place of what is shown. Older pages that were loaded before stay, and so do questions
 * that are not stored.
 */
export function merge(shown: Item[], stored: Message[]): Item[] {
  const first = stored[0];
  if (!first) return shown.filter((item) => item.id === "" && item.role === "user");
  const from = shown.findIndex((item) => item.id === first.id);
  const older = from > 0 ? shown.slice(0, from) : [];
  const keys = new Map(shown.map((item) => [item.id, item]));
  const local = shown.filter((item) => item.id === "");
  const newest = stored.map((message) => adopt(message, keys.get(message.id) ?? take(local, message)));
  return [...older, ...newest, ...local.filter((item) => item.role === "user")];
}

/** The item that this page has made for the message, if there is one. */
function take(local: Item[], { role, text }: Message): Item | undefined {
  const at = local.findIndex((item) => item.role === role && (role === "assistant" || item.text === text));
  return at < 0 ? undefined : local.splice(at, 1)[0];
}

function adopt(message: Message, known: Item | undefined): Item {
  const { id, role, text, images, partial, reply } = message;
  // The pictures that were sent are here already, so that they need not be fetched.
  const pictures = known?.pictures ?? [];
  return { key: known?.key ?? id, id, role, text, images, pictures, partial, reply };
}

export function prepend(shown: Item[], older: Message[]): Item[] {
  const ids = new Set(shown.map((item) => item.id));
  return [...older.filter(({ id }) => !ids.has(id)).map((message) => adopt(message, undefined)), ...shown];
}
