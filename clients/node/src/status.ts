/** Which error a status or a `ReplyError` stands for, and what it says about trying again. */

import { status, type StatusObject } from "@grpc/grpc-js";
import { fromBinary } from "@bufbuild/protobuf";
import { durationMs } from "@bufbuild/protobuf/wkt";
import * as errors from "./errors.js";
import type { Code, ErrorFields, ParleyError, Reason } from "./errors.js";
import { ErrorReason, ReplyErrorSchema, type ReplyError } from "./gen/parley/v1/errors_pb.js";

const TRAILER = "parley-error-bin";

type ErrorClass = new (message: string, fields: ErrorFields) => ParleyError;

// The compiler refuses this table once the contract has a reason that it lacks.
const BY_REASON: Record<Exclude<keyof typeof ErrorReason, "UNSPECIFIED">, ErrorClass> = {
  INVALID_REQUEST: errors.InvalidRequest,
  UNSUPPORTED_INPUT: errors.UnsupportedInput,
  CONTEXT_TOO_LARGE: errors.ContextTooLarge,
  INPUT_TOO_LARGE: errors.InputTooLarge,
  UNAUTHENTICATED: errors.Unauthenticated,
  FORBIDDEN: errors.Forbidden,
  CONVERSATION_NOT_FOUND: errors.ConversationNotFound,
  MESSAGE_NOT_FOUND: errors.MessageNotFound,
  REPLY_NOT_FOUND: errors.ReplyNotFound,
  MODEL_NOT_FOUND: errors.ModelNotFound,
  PROVIDER_NOT_FOUND: errors.ProviderNotFound,
  IMAGE_NOT_FOUND: errors.ImageNotFound,
  REQUEST_ID_REUSED: errors.RequestIdReused,
  CONVERSATION_EXISTS: errors.ConversationExists,
  REPLY_IN_PROGRESS: errors.ReplyInProgress,
  ETAG_MISMATCH: errors.EtagMismatch,
  RATE_LIMITED: errors.RateLimited,
  QUOTA_EXCEEDED: errors.QuotaExceeded,
  TOO_MANY_READERS: errors.TooManyReaders,
  NOT_CONFIGURED: errors.NotConfigured,
  DRAINING: errors.Draining,
  OVERLOADED: errors.Overloaded,
  STORAGE_UNAVAILABLE: errors.StorageUnavailable,
  PROVIDER_UNAVAILABLE: errors.ReplyFailed,
  PROVIDER_RATE_LIMITED: errors.ReplyFailed,
  PROVIDER_TIMEOUT: errors.ReplyFailed,
  PROVIDER_REJECTED: errors.ReplyFailed,
  PROVIDER_UNAUTHENTICATED: errors.ReplyFailed,
  PROVIDER_MALFORMED: errors.ReplyFailed,
  PROVIDER_TRUNCATED: errors.ReplyFailed,
  OWNER_LOST: errors.ReplyFailed,
  INTERNAL: errors.InternalError,
};

const BY_CODE: Partial<Record<Code, ErrorClass>> = {
  INVALID_ARGUMENT: errors.InvalidRequest,
  UNAUTHENTICATED: errors.Unauthenticated,
  PERMISSION_DENIED: errors.Forbidden,
  NOT_FOUND: errors.NotFound,
  ALREADY_EXISTS: errors.AlreadyExists,
  RESOURCE_EXHAUSTED: errors.LimitExceeded,
  FAILED_PRECONDITION: errors.NotConfigured,
  UNAVAILABLE: errors.Unavailable,
  CANCELLED: errors.Unavailable,
  DEADLINE_EXCEEDED: errors.DeadlineExceeded,
  INTERNAL: errors.InternalError,
};

const RETRYABLE: ReadonlySet<Code> = new Set<Code>(["UNAVAILABLE", "CANCELLED", "DEADLINE_EXCEEDED"]);

// What proxies, a stopping server and RST_STREAM are seen to produce, beside UNAVAILABLE.
const CUT: ReadonlySet<Code> = new Set<Code>(["CANCELLED", "INTERNAL", "UNKNOWN"]);

/** The typed error of a call that ended with a status other than OK. */
export function errorOfStatus(ended: StatusObject): ParleyError {
  const proto = trailer(ended);
  if (proto) return errorOfProto(proto);
  const code = codeName(ended.code);
  const kind = BY_CODE[code] ?? errors.ParleyError;
  return new kind(ended.details || code, { code, retryable: RETRYABLE.has(code) });
}

/** The typed error that a `ReplyError` stands for; a reason that is not known is read by its code. */
export function errorOfProto(proto: ReplyError): ParleyError {
  const fields = fieldsOf(proto, codeName(proto.code));
  const known = BY_REASON as Partial<Record<string, ErrorClass>>;
  const kind = known[fields.reason] ?? BY_CODE[fields.code] ?? errors.ParleyError;
  return new kind(proto.message, fields);
}

/** What a `failed` chunk says, whatever its reason: the caller makes a `ReplyFailed` of it. */
export function failureFields(proto: ReplyError): ErrorFields {
  return fieldsOf(proto, proto.code in status ? codeName(proto.code) : "ABORTED");
}

/** Whether the call, and not what was asked for, has failed: the same call may be made again. */
export function isCut(error: ParleyError): boolean {
  return error.code === "UNAVAILABLE" || (error.reason === "" && CUT.has(error.code));
}

/** Whether a status says what a lost terminal chunk would have said. */
export function endsReply(error: ParleyError): boolean {
  return (
    error.reason !== "" && (error instanceof errors.ReplyFailed || error instanceof errors.InternalError)
  );
}

function trailer(ended: StatusObject): ReplyError | undefined {
  const value = ended.metadata.get(TRAILER)[0];
  if (!(value instanceof Uint8Array)) return undefined;
  try {
    return fromBinary(ReplyErrorSchema, value);
  } catch {
    return undefined; // somebody else's trailer: the code is what is left
  }
}

function fieldsOf(proto: ReplyError, code: Code): ErrorFields & { reason: Reason | "" } {
  return {
    reason: reasonName(proto.reason),
    code,
    retryable: proto.retryable,
    retryAfterMs: proto.retryAfter && durationMs(proto.retryAfter),
    metadata: proto.metadata,
  };
}

function reasonName(reason: ErrorReason): Reason | "" {
  if (reason === ErrorReason.UNSPECIFIED) return "";
  return (ErrorReason[reason] as Reason | undefined) ?? `UNKNOWN_${Number(reason)}`;
}

function codeName(code: number): Code {
  return (status[code] as Code | undefined) ?? "UNKNOWN";
}
