/**
 * Every way in which a call or a reply can fail.
 *
 *     ParleyError                     reason, code, message, retryable, retryAfterMs, metadata
 *     ├── InvalidRequest              the request is wrong: fix it
 *     │   └── UnsupportedInput, ContextTooLarge, InputTooLarge
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

/** The model cannot take this input, such as an image. */
export class UnsupportedInput extends InvalidRequest {
  override readonly name = "UnsupportedInput";
}

/** The new input itself is larger than the model's context. */
export class ContextTooLarge extends InvalidRequest {
  override readonly name = "ContextTooLarge";
}

/** An image, a message or a label is over its limit; metadata `limit` names the limit. */
export class InputTooLarge extends InvalidRequest {
  override readonly name = "InputTooLarge";
}

/** The credential is missing or wrong. */
export class Unauthenticated extends ParleyError {
  override readonly name = "Unauthenticated";
}

/** The credential does not allow this call. Resources of other users are NOT_FOUND instead. */
export class Forbidden extends ParleyError {
  override readonly name = "Forbidden";
}

/** No such thing, or somebody else's. */
export class NotFound extends ParleyError {
  override readonly name: string = "NotFound";
}

/** No such conversation, or it belongs to another user. */
export class ConversationNotFound extends NotFound {
  override readonly name = "ConversationNotFound";
}

/** No such message in the conversation. */
export class MessageNotFound extends NotFound {
  override readonly name = "MessageNotFound";
}

/** No such reply, or it belongs to another user. */
export class ReplyNotFound extends NotFound {
  override readonly name = "ReplyNotFound";
}

/** The catalog has no model of this alias. */
export class ModelNotFound extends NotFound {
  override readonly name = "ModelNotFound";
}

/** The server has no such provider. */
export class ProviderNotFound extends NotFound {
  override readonly name = "ProviderNotFound";
}

/** No such image, or it belongs to another user. */
export class ImageNotFound extends NotFound {
  override readonly name = "ImageNotFound";
}

/** The key or id is taken. */
export class AlreadyExists extends ParleyError {
  override readonly name: string = "AlreadyExists";
}

/** The `requestId` was used before with another payload. */
export class RequestIdReused extends AlreadyExists {
  override readonly name = "RequestIdReused";
}

/** The chosen conversation id is taken. */
export class ConversationExists extends AlreadyExists {
  override readonly name = "ConversationExists";
}

/** Another reply runs in the conversation; metadata `reply_id` has its id. */
export class ReplyInProgress extends ParleyError {
  override readonly name = "ReplyInProgress";

  /** The reply that runs; empty where the server did not say. */
  get replyId(): string {
    return this.metadata["reply_id"] ?? "";
  }
}

/** The resource has changed since its etag was read. */
export class EtagMismatch extends ParleyError {
  override readonly name = "EtagMismatch";
}

/** A limit of the caller is reached. */
export class LimitExceeded extends ParleyError {
  override readonly name: string = "LimitExceeded";
}

/** The rate of messages is over its limit. */
export class RateLimited extends LimitExceeded {
  override readonly name = "RateLimited";
}

/** The quota of the period is used up. */
export class QuotaExceeded extends LimitExceeded {
  override readonly name = "QuotaExceeded";
}

/** The reply has reached its limit of readers. */
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

/** The server is at its limit of running replies, or too busy. */
export class Overloaded extends Unavailable {
  override readonly name = "Overloaded";
}

/** The database is unavailable, or Redis is and the call needs it. */
export class StorageUnavailable extends Unavailable {
  override readonly name = "StorageUnavailable";
}

/**
 * A reply could no longer be followed; it may still be running. To resume it after `sequence` goes on where
 * `text` ends.
 */
export class ConnectionLost extends Unavailable {
  override readonly name = "ConnectionLost";
  /** The reply, to resume. */
  readonly replyId: string;
  /** The cursor, to resume after. */
  readonly sequence: number;
  /** The answer as far as it was read. */
  readonly text: string;

  constructor(
    message: string,
    fields: ErrorFields & {
      readonly replyId?: string | undefined;
      readonly sequence?: number | undefined;
      readonly text?: string | undefined;
    },
  ) {
    super(message, fields);
    this.replyId = fields.replyId ?? "";
    this.sequence = fields.sequence ?? 0;
    this.text = fields.text ?? "";
  }
}

/** The call took longer than its time limit. */
export class DeadlineExceeded extends ParleyError {
  override readonly name = "DeadlineExceeded";
}

/**
 * The reply was accepted and then failed. Where `retryable`, a new request with `replaceMessageId` set to
 * `messageId` and no text tries again without repeating the user's message.
 */
export class ReplyFailed extends ParleyError {
  override readonly name = "ReplyFailed";
  /** What it had written. */
  readonly text: string;
  /** The reply. */
  readonly replyId: string;
  /** The message that would have held the answer. */
  readonly messageId: string;
  /** What the provider had counted, or an estimate. */
  readonly usage: Usage | undefined;

  constructor(
    message: string,
    fields: ErrorFields & {
      readonly text?: string | undefined;
      readonly replyId?: string | undefined;
      readonly messageId?: string | undefined;
      readonly usage?: Usage | undefined;
    },
  ) {
    super(message, fields);
    this.text = fields.text ?? "";
    this.replyId = fields.replyId ?? "";
    this.messageId = fields.messageId ?? "";
    this.usage = fields.usage;
  }
}

/** A defect of the server; metadata `call_id` is in its log lines. */
export class InternalError extends ParleyError {
  override readonly name = "InternalError";
}

type ErrorClass = new (message: string, fields: ErrorFields) => ParleyError;

/** The class of each reason. */
export const BY_REASON: Readonly<Partial<Record<string, ErrorClass>>> = {
  INVALID_REQUEST: InvalidRequest,
  UNSUPPORTED_INPUT: UnsupportedInput,
  CONTEXT_TOO_LARGE: ContextTooLarge,
  INPUT_TOO_LARGE: InputTooLarge,
  UNAUTHENTICATED: Unauthenticated,
  FORBIDDEN: Forbidden,
  CONVERSATION_NOT_FOUND: ConversationNotFound,
  MESSAGE_NOT_FOUND: MessageNotFound,
  REPLY_NOT_FOUND: ReplyNotFound,
  MODEL_NOT_FOUND: ModelNotFound,
  PROVIDER_NOT_FOUND: ProviderNotFound,
  IMAGE_NOT_FOUND: ImageNotFound,
  REQUEST_ID_REUSED: RequestIdReused,
  CONVERSATION_EXISTS: ConversationExists,
  REPLY_IN_PROGRESS: ReplyInProgress,
  ETAG_MISMATCH: EtagMismatch,
  RATE_LIMITED: RateLimited,
  QUOTA_EXCEEDED: QuotaExceeded,
  TOO_MANY_READERS: TooManyReaders,
  NOT_CONFIGURED: NotConfigured,
  DRAINING: Draining,
  OVERLOADED: Overloaded,
  STORAGE_UNAVAILABLE: StorageUnavailable,
  PROVIDER_UNAVAILABLE: ReplyFailed,
  PROVIDER_RATE_LIMITED: ReplyFailed,
  PROVIDER_TIMEOUT: ReplyFailed,
  PROVIDER_REJECTED: ReplyFailed,
  PROVIDER_UNAUTHENTICATED: ReplyFailed,
  PROVIDER_MALFORMED: ReplyFailed,
  PROVIDER_TRUNCATED: ReplyFailed,
  OWNER_LOST: ReplyFailed,
  PROVIDER_CONTEXT_TOO_LARGE: ReplyFailed,
  INTERNAL: InternalError,
};

/** The class of each status code that has one, for what comes without a reason, or with one that is newer. */
export const BY_CODE: Readonly<Partial<Record<Code, ErrorClass>>> = {
  INVALID_ARGUMENT: InvalidRequest,
  UNAUTHENTICATED: Unauthenticated,
  PERMISSION_DENIED: Forbidden,
  NOT_FOUND: NotFound,
  ALREADY_EXISTS: AlreadyExists,
  RESOURCE_EXHAUSTED: LimitExceeded,
  FAILED_PRECONDITION: NotConfigured,
  UNAVAILABLE: Unavailable,
  CANCELLED: Unavailable,
  DEADLINE_EXCEEDED: DeadlineExceeded,
  INTERNAL: InternalError,
};
