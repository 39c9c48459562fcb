/** The fields of a `ReplyRequest` as plain JavaScript values, and their conversion. */

import type { MessageInitShape } from "@bufbuild/protobuf";
import { choice, duration, list, oneOf, whole } from "./convert.js";
import {
  ConcurrencyPolicy,
  DisconnectPolicy,
  type ReplyRequestSchema,
  type SamplingSchema,
  type ToolSchema,
} from "./gen/parley/v1/chat_pb.js";
import type { ConversationSchema, ImageSchema, MessageSchema } from "./gen/parley/v1/resources_pb.js";

export type ImageSource = Uint8Array | string | MessageInitShape<typeof ImageSchema>;

/** The fields of a `ReplyRequest`, without nesting. Names that end in `Ms` are in milliseconds. */
export interface ReplyFields {
  /**
   * Idempotency key, unique within tenant and end user for 24 hours, at most 128 characters. The same key
   * with another payload is REQUEST_ID_REUSED. Empty: the client makes one.
   */
  requestId?: string | undefined;
  /** The conversation to continue. Empty: `newConversation` is started, and `accepted` has its id. */
  conversationId?: string | undefined;
  /**
   * Used when `conversationId` is empty: system sections, title, labels, context and so on for the
   * conversation.
   */
  newConversation?: MessageInitShape<typeof ConversationSchema> | undefined;
  /** The user's message: equal to one `input` message of role USER with one text part. Exclusive with `input`. */
  text?: string | undefined;
  /**
   * New messages (USER, ASSISTANT or TOOL) to append before the reply is generated. It may be empty only with
   * `replaceMessageId`.
   */
  input?: readonly MessageInitShape<typeof MessageSchema>[] | undefined;
  /** Images, sent with `text` as one message: bytes (PNG, JPEG, WebP or GIF), https URLs, or `Image` messages. */
  images?: readonly ImageSource[] | undefined;
  /**
   * After this message: a fork. The partial text of a failed reply is part of prompts only if it is named
   * here.
   */
  afterMessageId?: string | undefined;
  /**
   * Beside this message, under the same parent: with input an edit, without input a regeneration or a new
   * attempt. The `messageId` of any reply of the conversation may be named, also of one that runs (with
   * INTERRUPT) or that ended without a message. Without input, a USER or TOOL message gets a new answer below
   * it.
   */
  replaceMessageId?: string | undefined;
  /** Model alias of the catalog. Empty: the conversation's, else the server's default. */
  model?: string | undefined;
  /** Aliases tried in order when the model fails before its first token. Empty: the catalog's own list. */
  fallbackModels?: readonly string[] | undefined;
  /** System prompt sections for this reply only, joined by "\n---\n". Empty: the conversation's. */
  system?: readonly string[] | undefined;
  /** Every setting is optional, since zero is a valid temperature; for unset ones the model's defaults apply. */
  sampling?: MessageInitShape<typeof SamplingSchema> | undefined;
  /**
   * A function that the model may call. The server streams the calls; the caller runs them and sends results
   * as `input`.
   */
  tools?: readonly MessageInitShape<typeof ToolSchema>[] | undefined;
  /** "auto" (default), "none", "required", or the name of a tool. */
  toolChoice?: string | undefined;
  /** JSON Schema for the answer, passed to the provider; the server does not validate the answer. */
  jsonSchema?: string | undefined;
  /** What happens when another reply already runs in the conversation. */
  concurrency?: "reject" | "interrupt" | undefined;
  /** What happens to the generation when its last reader leaves. */
  onDisconnect?: "continue" | "cancel" | undefined;
  /**
   * With CONTINUE: the generation is cancelled this long after its last reader has left. The time starts only
   * after a first reader was there; a PollReply or GetReply counts as a reader for a minute. Default 5
   * minutes; zero: never.
   */
  orphanTtlMs?: number | undefined;
  /**
   * Longest time of the generation, independent of the call's deadline. Default and maximum: the server's (10
   * minutes).
   */
  timeLimitMs?: number | undefined;
  /**
   * A heartbeat is sent after this time without a chunk, since some load balancers ignore HTTP/2 pings.
   * Default 15 s, 1 s to 60 s.
   */
  heartbeatMs?: number | undefined;
  /** True: reasoning is streamed, too. */
  reasoning?: boolean | undefined;
  /** The caller's own labels, stored with the reply. At most 16; keys and values have at most 64 characters. */
  labels?: Readonly<Record<string, string>> | undefined;
}

const CONCURRENCY = {
  reject: ConcurrencyPolicy.REJECT,
  interrupt: ConcurrencyPolicy.INTERRUPT,
};

const ON_DISCONNECT = {
  continue: DisconnectPolicy.CONTINUE,
  cancel: DisconnectPolicy.CANCEL,
};

/** Returns the request of these fields without `images`. Throws TypeError for wrong values. */
export function requestOf(fields: ReplyFields): MessageInitShape<typeof ReplyRequestSchema> {
  return {
    requestId: fields.requestId,
    conversationId: fields.conversationId,
    newConversation: fields.newConversation,
    text: fields.text,
    input: list("input", fields.input),
    model: fields.model,
    fallbackModels: list("fallbackModels", fields.fallbackModels),
    system: list("system", fields.system),
    sampling: fields.sampling,
    tools: list("tools", fields.tools),
    toolChoice: fields.toolChoice,
    jsonSchema: fields.jsonSchema,
    concurrency: choice("concurrency", fields.concurrency, CONCURRENCY),
    onDisconnect: choice("onDisconnect", fields.onDisconnect, ON_DISCONNECT),
    orphanTtl: duration(fields.orphanTtlMs),
    timeLimit: duration(fields.timeLimitMs),
    labels: fields.labels,
    position: oneOf({
      afterMessageId: fields.afterMessageId,
      replaceMessageId: fields.replaceMessageId,
    }),
    streamOptions: whole({
      heartbeat: duration(fields.heartbeatMs),
      reasoning: fields.reasoning,
    }),
  };
}
