/** Builds a `ReplyRequest` from what a caller writes. No I/O. */

import { randomUUID } from "node:crypto";
import { clone, create, isMessage, type MessageInitShape } from "@bufbuild/protobuf";
import { durationFromMs, type Duration } from "@bufbuild/protobuf/wkt";
import {
  ConcurrencyPolicy,
  DisconnectPolicy,
  ReplyRequestSchema,
  StreamOptionsSchema,
  type ReplyRequest,
  type SamplingSchema,
  type StreamOptions,
  type ToolSchema,
} from "./gen/parley/v1/chat_pb.js";
import {
  Role,
  type ConversationSchema,
  type ImageSchema,
  type MessageSchema,
} from "./gen/parley/v1/resources_pb.js";

/** The bytes of an image (its kind is read off them), an https URL, or an `Image`. */
export type ImageSource = Uint8Array | string | MessageInitShape<typeof ImageSchema>;

/** What to answer, in which conversation, and how. Fields that are not explained are those of `ReplyRequest`. */
export interface ReplyFields {
  /** The user's message. */
  text?: string | undefined;
  /** They go with the text, as one message. */
  images?: readonly ImageSource[] | undefined;
  /** Whole messages, in place of text. */
  input?: readonly MessageInitShape<typeof MessageSchema>[] | undefined;
  /** Idempotency key; one is made where there is none. */
  requestId?: string | undefined;
  conversationId?: string | undefined;
  newConversation?: MessageInitShape<typeof ConversationSchema> | undefined;
  /** A fork: the new messages follow this one. Excludes `replaceMessageId`. */
  afterMessageId?: string | undefined;
  /** An edit, or, without text, a new attempt. */
  replaceMessageId?: string | undefined;
  model?: string | undefined;
  fallbackModels?: readonly string[] | undefined;
  system?: readonly string[] | undefined;
  sampling?: MessageInitShape<typeof SamplingSchema> | undefined;
  tools?: readonly MessageInitShape<typeof ToolSchema>[] | undefined;
  toolChoice?: string | undefined;
  jsonSchema?: string | undefined;
  concurrency?: "reject" | "interrupt" | undefined;
  onDisconnect?: "continue" | "cancel" | undefined;
  orphanTtlMs?: number | undefined;
  timeLimitMs?: number | undefined;
  labels?: Readonly<Record<string, string>> | undefined;
  /** A heartbeat after this much silence; without it, the server's default. */
  heartbeatMs?: number | undefined;
  /** Whether reasoning events are wanted. */
  reasoning?: boolean | undefined;
}

const CONCURRENCY = { reject: ConcurrencyPolicy.REJECT, interrupt: ConcurrencyPolicy.INTERRUPT };
const ON_DISCONNECT = { continue: DisconnectPolicy.CONTINUE, cancel: DisconnectPolicy.CANCEL };

/** A request of its own, with a `requestId`, so that it may be sent any number of times. Throws TypeError. */
export function buildRequest(message: string | ReplyFields | ReplyRequest): ReplyRequest {
  const request = isMessage(message, ReplyRequestSchema)
    ? clone(ReplyRequestSchema, message)
    : fromFields(typeof message === "string" ? { text: message } : message);
  request.requestId ||= randomUUID();
  return request;
}

export function streamOptions(fields: {
  heartbeatMs?: number | undefined;
  reasoning?: boolean | undefined;
}): StreamOptions {
  return create(StreamOptionsSchema, {
    reasoning: fields.reasoning,
    heartbeat: duration(fields.heartbeatMs),
  });
}

export function duration(ms: number | undefined): Duration | undefined {
  return ms === undefined ? undefined : durationFromMs(Math.round(ms));
}

function fromFields(fields: ReplyFields): ReplyRequest {
  const { images, text, input, afterMessageId, replaceMessageId, concurrency, onDisconnect, ...same } =
    fields;
  const { orphanTtlMs, timeLimitMs, heartbeatMs, reasoning, system, fallbackModels, tools, ...plain } = same;
  if (afterMessageId && replaceMessageId) {
    throw new TypeError("afterMessageId and replaceMessageId exclude each other");
  }
  const pictures = list("images", images);
  const messages = list("input", input);
  return create(ReplyRequestSchema, {
    ...plain,
    ...(pictures.length > 0
      ? { input: [...messages, illustrated(text, pictures)] }
      : { text, input: messages }),
    system: list("system", system),
    fallbackModels: list("fallbackModels", fallbackModels),
    tools: list("tools", tools),
    position: afterMessageId
      ? { case: "afterMessageId", value: afterMessageId }
      : replaceMessageId
        ? { case: "replaceMessageId", value: replaceMessageId }
        : { case: undefined },
    concurrency: concurrency && CONCURRENCY[concurrency],
    onDisconnect: onDisconnect && ON_DISCONNECT[onDisconnect],
    orphanTtl: duration(orphanTtlMs),
    timeLimit: duration(timeLimitMs),
    streamOptions:
      heartbeatMs === undefined && reasoning === undefined
        ? undefined
        : streamOptions({ heartbeatMs, reasoning }),
  });
}

/** JavaScript callers have no compiler: a string would be taken letter by letter. */
function list<T>(name: string, values: readonly T[] | undefined): T[] {
  if (values !== undefined && !Array.isArray(values)) throw new TypeError(`${name}: a list is meant`);
  return values ? [...values] : [];
}

function illustrated(
  text: string | undefined,
  images: ImageSource[],
): MessageInitShape<typeof MessageSchema> {
  const parts = images.map((source) => ({ content: { case: "image" as const, value: image(source) } }));
  return {
    role: Role.USER,
    parts: text ? [{ content: { case: "text", value: text } }, ...parts] : parts,
  };
}

function image(source: ImageSource): MessageInitShape<typeof ImageSchema> {
  if (typeof source === "string") return { source: { case: "url", value: source } };
  if (!(source instanceof Uint8Array)) return source;
  return { source: { case: "data", value: source }, mimeType: mimeType(source) };
}

function mimeType(content: Uint8Array): string {
  const head = Buffer.from(content.subarray(0, 12)).toString("latin1");
  if (head.startsWith("\x89PNG\r\n\x1a\n")) return "image/png";
  if (head.startsWith("\xff\xd8\xff")) return "image/jpeg";
  if (head.startsWith("GIF8")) return "image/gif";
  if (head.startsWith("RIFF") && head.endsWith("WEBP")) return "image/webp";
  throw new TypeError("images: neither PNG, JPEG, WebP nor GIF");
}
