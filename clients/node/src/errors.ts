/**
 * Every way in which a call or a reply can fail.
 *
 *     ParleyError                     reason, code, message, retryable, retryAfterMs, metadata
 *     ├── InvalidRequest              the request is wrong: fix it
 *     │   └── InputTooLarge, UnsupportedInput, ContextTooLarge
 *     ├── Unauthenticated, Forbidden
 *     ├── NotFound
 *     │   └── ConversationNotFound, MessageNotFound, ReplyNotFound, ModelNotFound, ProviderNotFound, ImageNotFound
 *     ├── AlreadyExists
 *     │   └── RequestIdReused, ConversationExists
 *     ├── ReplyInProgress             `replyId` is the one that runs
 *     ├── EtagMismatch                read again, then change
 *     ├── LimitExceeded               wait `retryAfterMs`
 *     │   └── RateLimited, QuotaExceeded, TooManyReaders
 *     ├── NotConfigured               the server lacks what the call needs
 *     ├── Unavailable                 no answer from a server, though the client tried again
 *     │   ├── Draining, Overloaded, StorageUnavailable
 *     │   └── ConnectionLost          the reply was accepted, then could not be followed: resume it later
 *     ├── DeadlineExceeded            the call's own time limit
 *     ├── ReplyFailed                 the reply was accepted, then failed: `text` is what it had written
 *     └── InternalError               a defect of the server; metadata `call_id` finds it in its logs
 *
 * What was aborted by an AbortSignal rejects with the signal's own reason instead.
 */

import type { status } from "@grpc/grpc-js";
import type { ErrorReason } from "./gen/parley/v1/errors_pb.js";
import type { Usage } from "./gen/parley/v1/resources_pb.js";

/** The name of a gRPC status code. */
export type Code = keyof typeof status;

/** The name of an `ErrorReason`; one newer than this client reads UNKNOWN_<number>. */
export type Reason = Exclude<keyof typeof ErrorReason, "UNSPECIFIED"> | `UNKNOWN_${number}`;

export interface ErrorFields {
  readonly reason?: Reason | "" | undefined;
  readonly code: Code;
  readonly retryable?: boolean | undefined;
  readonly retryAfterMs?: number | undefined;
  readonly metadata?: Readonly<Record<string, string>> | undefined;
  readonly cause?: unknown;
}

/** A failure with a reason. Its `message` is safe to show. */
export class ParleyError extends Error {
  override readonly name: string = "ParleyError";
  /** Empty where the transport failed and no Parley server spoke. */
  readonly reason: Reason | "";
  readonly code: Code;
  /** Whether a new attempt may succeed. */
  readonly retryable: boolean;
  /** How long the server asks to wait before it. */
  readonly retryAfterMs: number | undefined;
  readonly metadata: Readonly<Record<string, string>>;

  constructor(message: string, fields: ErrorFields) {
    super(message, fields.cause === undefined ? undefined : { cause: fields.cause });
    this.reason = fields.reason ?? "";
    this.code = fields.code;
    this.retryable = fields.retryable ?? false;
    this.retryAfterMs = fields.retryAfterMs;
    this.metadata = fields.metadata ?? {};
  }
}

/** The request breaks the contract. */
export class InvalidRequest extends ParleyError {
  override readonly name: string = "InvalidRequest";
}

/** Something in the request is over its limit; metadata `limit` names the limit. */
export class InputTooLarge extends InvalidRequest {
  override readonly name = "InputTooLarge";
}

/** The model cannot take this input, such as an image. */
export class UnsupportedInput extends InvalidRequest {
  override readonly name = "UnsupportedInput";
}

/** The input alone is larger than the model's context. */
export class ContextTooLarge extends InvalidRequest {
  override readonly name = "ContextTooLarge";
}

/** The credential is missing or wrong. */
export class Unauthenticated extends ParleyError {
  override readonly name = "Unauthenticated";
}

/** The credential does not allow this call. */
export class Forbidden extends ParleyError {
  override readonly name = "Forbidden";
}

/** No such thing, or somebody else's. */
export class NotFound extends ParleyError {
  override readonly name: string = "NotFound";
}

export class ConversationNotFound extends NotFound {
  override readonly name = "ConversationNotFound";
}

export class MessageNotFound extends NotFound {
  override readonly name = "MessageNotFound";
}

export class ReplyNotFound extends NotFound {
  override readonly name = "ReplyNotFound";
}

export class ModelNotFound extends NotFound {
  override readonly name = "ModelNotFound";
}

export class ProviderNotFound extends NotFound {
  override readonly name = "ProviderNotFound";
}

export class ImageNotFound extends NotFound {
  override readonly name = "ImageNotFound";
}

/** The key or id is taken. */
export class AlreadyExists extends ParleyError {
  override readonly name: string = "AlreadyExists";
}

/** The `requestId` came before, with another payload. */
export class RequestIdReused extends AlreadyExists {
  override readonly name = "RequestIdReused";
}

export class ConversationExists extends AlreadyExists {
  override readonly name = "ConversationExists";
}

/** Another reply runs in the conversation. */
export class ReplyInProgress extends ParleyError {
  override readonly name = "ReplyInProgress";

  /** The reply that runs, to resume or to cancel; empty where the server did not say. */
  get replyId(): string {
    return this.metadata["reply_id"] ?? "";
  }
}

/** The resource has changed since it was read. */
export class EtagMismatch extends ParleyError {
  override readonly name = "EtagMismatch";
}

/** A limit of the caller is reached. */
export class LimitExceeded extends ParleyError {
  override readonly name: string = "LimitExceeded";
}

export class RateLimited extends LimitExceeded {
  override readonly name = "RateLimited";
}

export class QuotaExceeded extends LimitExceeded {
  override readonly name = "QuotaExceeded";
}

/** The reply has as many readers as it may have. */
export class TooManyReaders extends LimitExceeded {
  override readonly name = "TooManyReaders";
}

/** The server lacks what the call needs, such as an encryption key. */
export class NotConfigured extends ParleyError {
  override readonly name = "NotConfigured";
}

/** No server could be reached, or it took no calls, for as long as the client's backoff allowed. */
export class Unavailable extends ParleyError {
  override readonly name: string = "Unavailable";
}

/** The server is shutting down. */
export class Draining extends Unavailable {
  override readonly name = "Draining";
}

/** The server takes no more replies for now. */
export class Overloaded extends Unavailable {
  override readonly name = "Overloaded";
}

/** The server's database is down. */
export class StorageUnavailable extends Unavailable {
  override readonly name = "StorageUnavailable";
}

/**
 * A reply could no longer be followed; it may still be running.
 *
 * `client.resume(error.replyId, { afterSequence: error.sequence })` goes on where `text` ends.
 */
export class ConnectionLost extends Unavailable {
  override readonly name = "ConnectionLost";
  readonly replyId: string;
  readonly sequence: number;
  readonly text: string;

  constructor(cause: ParleyError, known: { replyId: string; sequence: number; text: string }) {
    super(cause.message, { reason: cause.reason, code: cause.code, retryable: true, cause });
    this.replyId = known.replyId;
    this.sequence = known.sequence;
    this.text = known.text;
  }
}

/** The call took longer than its time limit. */
export class DeadlineExceeded extends ParleyError {
  override readonly name = "DeadlineExceeded";
}

/** A defect of the server. */
export class InternalError extends ParleyError {
  override readonly name = "InternalError";
}

/**
 * The reply was accepted and then failed. Where `retryable`, a new request with `replaceMessageId: error.messageId` and
 * no text tries again without repeating the user's message.
 */
export class ReplyFailed extends ParleyError {
  override readonly name = "ReplyFailed";
  /** What it had written. */
  readonly text: string;
  readonly replyId: string;
  readonly messageId: string;
  readonly usage: Usage | undefined;

  constructor(
    message: string,
    fields: ErrorFields,
    known: { text?: string; replyId?: string; messageId?: string; usage?: Usage | undefined } = {},
  ) {
    super(message, fields);
    this.text = known.text ?? "";
    this.replyId = known.replyId ?? "";
    this.messageId = known.messageId ?? "";
    this.usage = known.usage;
  }
}
