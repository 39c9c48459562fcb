/**
 * The errors of the client, one class per kind of failure.
 *
 *     ParleyError                     reason, code, message, retryable, retryAfterMs, metadata
 *     ├── InvalidRequest              the request is wrong; correct it before sending it again
 *     │   └── UnsupportedInput, ContextTooLarge, InputTooLarge
 *     ├── Unauthenticated, Forbidden
 *     ├── CredentialFailed            the application's function for the credential failed; nothing was sent
 *     ├── NotFound
 *     │   └── ConversationNotFound, MessageNotFound, ReplyNotFound, ModelNotFound, ProviderNotFound, ImageNotFound
 *     ├── AlreadyExists
 *     │   └── RequestIdReused, ConversationExists
 *     ├── ReplyInProgress             `replyId` is the running reply
 *     ├── EtagMismatch                read the resource again, then update it
 *     ├── LimitExceeded               `limit` is reached; `retryAfterMs` is the wait
 *     │   └── RateLimited, QuotaExceeded, TooManyReaders
 *     ├── NotConfigured               the server lacks a setting that the call needs
 *     ├── Unavailable                 no answer from a server after all retries
 *     │   ├── Draining, Overloaded, StorageUnavailable, IdentityUnavailable
 *     │   └── ConnectionLost          the stream of an accepted reply was lost; resume it later
 *     ├── DeadlineExceeded            the call's time limit has passed
 *     ├── ReplyFailed                 the reply was accepted, then failed; `text` is its partial text
 *     └── InternalError               a defect of the server; metadata `call_id` is in its log lines
 *
 * A call that an AbortSignal aborts rejects with the signal's reason instead.
 */

import type { status } from "@grpc/grpc-js";
import type { ErrorReason } from "./gen/parley/v1/errors_pb.js";
import type { Usage } from "./gen/parley/v1/resources_pb.js";

/** The name of a gRPC status code. */
export type Code = keyof typeof status;

/** The name of an `ErrorReason`; UNKNOWN_<number> if the client does not have it. */
export type Reason = Exclude<keyof typeof ErrorReason, "UNSPECIFIED"> | `UNKNOWN_${number}`;

export interface ErrorFields {
  readonly reason?: Reason | "" | undefined;
  readonly code: Code;
  readonly retryable?: boolean | undefined;
  readonly retryAfterMs?: number | undefined;
  readonly metadata?: Readonly<Record<string, string>> | undefined;
  readonly cause?: unknown;
}

/** Base class of all errors of the client. Its `message` can be shown to users. */
export class ParleyError extends Error {
  override readonly name: string = "ParleyError";
  /** Empty if the error came from the transport and not from a Parley server. */
  readonly reason: Reason | "";
  readonly code: Code;
  /** True if a new attempt may succeed. */
  readonly retryable: boolean;
  /** How long to wait before it, if the server sent it. */
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

/**
 * The function for the credential threw an error, took too long, or returned no credential; nothing was sent. `cause` is
 * the function's own error.
 */
export class CredentialFailed extends ParleyError {
  override readonly name = "CredentialFailed";
}

/** No such resource, or it belongs to another user. */
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

/** The key or id is already in use. */
export class AlreadyExists extends ParleyError {
  override readonly name: string = "AlreadyExists";
}

/** The `requestId` was used before with another payload. */
export class RequestIdReused extends AlreadyExists {
  override readonly name = "RequestIdReused";
}

/** The chosen conversation id is already in use. */
export class ConversationExists extends AlreadyExists {
  override readonly name = "ConversationExists";
}

/** Another reply runs in the conversation; metadata `reply_id` has its id. */
export class ReplyInProgress extends ParleyError {
  override readonly name = "ReplyInProgress";

  /** The id of the running reply; empty if the server did not send it. */
  get replyId(): string {
    return this.metadata["reply_id"] ?? "";
  }
}

/** The resource has changed since its etag was read. */
export class EtagMismatch extends ParleyError {
  override readonly name = "EtagMismatch";
}

/**
 * The caller has reached a limit. `retryAfterMs` is the wait until there is room, if the server sent it.
 *
 * The numbers count what the limit counts: messages, replies, tokens, or billionths of a US dollar. Each property is
 * undefined or empty if the server did not send it.
 */
export class LimitExceeded extends ParleyError {
  override readonly name: string = "LimitExceeded";

  /** The name of the limit, such as "messages_per_minute" or "tenant_tokens_per_day". */
  get limit(): string {
    return this.metadata["limit"] ?? "";
  }

  /** How much of the limit is used. */
  get used(): bigint | undefined {
    return numberOf(this.metadata["used"]);
  }

  /** The limit itself. */
  get max(): bigint | undefined {
    return numberOf(this.metadata["max"]);
  }

  /** How much more the request needs. */
  get needed(): bigint | undefined {
    return numberOf(this.metadata["needed"]);
  }

  /** Whose limit it is: "end_user" or "tenant". */
  get subject(): string {
    return this.metadata["subject"] ?? "";
  }

  /** When the period of the quota ends. */
  get resetTime(): Date | undefined {
    const time = new Date(this.metadata["reset_time"] ?? "");
    return Number.isNaN(time.getTime()) ? undefined : time;
  }
}

function numberOf(digits: string | undefined): bigint | undefined {
  return digits !== undefined && /^-?\d{1,19}$/.test(digits) ? BigInt(digits) : undefined;
}

/** Too many messages in a minute, or too many replies at once. The client waits only within its backoff. */
export class RateLimited extends LimitExceeded {
  override readonly name = "RateLimited";
}

/** The quota of the period is used up. The client does not wait: the end of the period may be a month away. */
export class QuotaExceeded extends LimitExceeded {
  override readonly name = "QuotaExceeded";
}

/** The reply has reached its limit of readers. */
export class TooManyReaders extends LimitExceeded {
  override readonly name = "TooManyReaders";
}

/** The server lacks a setting that the call needs, such as an encryption key. */
export class NotConfigured extends ParleyError {
  override readonly name = "NotConfigured";
}

/** No server could be reached, or none accepted the call, until the client's backoff expired. */
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

/** The server cannot read the keys that verify tokens, so that it has not checked the caller's token. */
export class IdentityUnavailable extends Unavailable {
  override readonly name = "IdentityUnavailable";
}

/**
 * The client could not reconnect to the stream of an accepted reply, which may still be running.
 *
 * `client.resume(replyId, { afterSequence: sequence })` continues where `text` ends.
 */
export class ConnectionLost extends Unavailable {
  override readonly name = "ConnectionLost";
  readonly replyId: string;
  /** The cursor: the sequence of the last chunk that was read. */
  readonly sequence: number;
  /** The text that was read. */
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
 * The reply was accepted and then failed.
 *
 * If `retryable`, a new request without text and with `replaceMessageId` set to `messageId` generates the answer again
 * without repeating the user's message.
 */
export class ReplyFailed extends ParleyError {
  override readonly name = "ReplyFailed";
  /** The partial text. */
  readonly text: string;
  readonly replyId: string;
  /** The message for the answer. */
  readonly messageId: string;
  /** The usage that the provider reported, or an estimate. */
  readonly usage: Usage | undefined;
  /** The alias that was asked last; after a failover, not the requested one. */
  readonly model: string;
  /** The provider that was asked last. */
  readonly provider: string;

  constructor(
    message: string,
    fields: ErrorFields & {
      readonly text?: string | undefined;
      readonly replyId?: string | undefined;
      readonly messageId?: string | undefined;
      readonly usage?: Usage | undefined;
      readonly model?: string | undefined;
      readonly provider?: string | undefined;
    },
  ) {
    super(message, fields);
    this.text = fields.text ?? "";
    this.replyId = fields.replyId ?? "";
    this.messageId = fields.messageId ?? "";
    this.usage = fields.usage;
    this.model = fields.model ?? "";
    this.provider = fields.provider ?? "";
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
  IDENTITY_UNAVAILABLE: IdentityUnavailable,
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

/** The class of each status code, for errors without a reason or with an unknown one. */
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
