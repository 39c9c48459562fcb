/** Builds a `ReplyRequest` from text or fields. */

import { randomUUID } from "node:crypto";
import { clone, create, isMessage, type MessageInitShape } from "@bufbuild/protobuf";
import { duration, list } from "./convert.js";
import { requestOf, type ImageSource, type ReplyFields } from "./fields.js";
import {
  ReplyRequestSchema,
  StreamOptionsSchema,
  type ReplyRequest,
  type StreamOptions,
} from "./gen/parley/v1/chat_pb.js";
import { MessageSchema, Role, type ImageSchema } from "./gen/parley/v1/resources_pb.js";

/** Returns a new request with a `requestId`, so that it can be retried. Throws TypeError for wrong values. */
export function buildRequest(message: string | ReplyFields | ReplyRequest): ReplyRequest {
  const request = isMessage(message, ReplyRequestSchema)
    ? clone(ReplyRequestSchema, message)
    : fromFields(typeof message === "string" ? { text: message } : message);
  request.requestId ||= randomUUID();
  return request;
}

export function streamOptions(fields: Pick<ReplyFields, "heartbeatMs" | "reasoning">): StreamOptions {
  const { heartbeatMs, reasoning } = fields;
  return create(StreamOptionsSchema, { heartbeat: duration(heartbeatMs), reasoning });
}

function fromFields(fields: ReplyFields): ReplyRequest {
  const request = create(ReplyRequestSchema, requestOf(fields));
  const images = list("images", fields.images);
  if (images.length === 0) return request;
  const pictures = images.map((source) => ({ content: { case: "image" as const, value: image(source) } }));
  const text = { content: { case: "text" as const, value: request.text } };
  const parts = request.text ? [text, ...pictures] : pictures;
  request.input.push(create(MessageSchema, { role: Role.USER, parts }));
  request.text = "";
  return request;
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
  throw new TypeError("images: must be PNG, JPEG, WebP or GIF");
}
