/** Converts statuses and `ReplyError`s to typed errors, and decides which errors are retried. */

import { status, type StatusObject } from "@grpc/grpc-js";
import { fromBinary } from "@bufbuild/protobuf";
import { durationMs } from "@bufbuild/protobuf/wkt";
import {
  BY_CODE,
  BY_REASON,
  InternalError,
  ParleyError,
  RateLimited,
  ReplyFailed,
  Unavailable,
  type Code,
  type ErrorFields,
  type Reason,
} from "./errors.js";
import { ErrorReason, ReplyErrorSchema, type ReplyError } from "./gen/parley/v1/errors_pb.js";

const TRAILER = "parley-error-bin";
// Codes that proxies, a stopping server and RST_STREAM produce, in addition to UNAVAILABLE. Parley's own INTERNAL has a
// reason.
const CUT: readonly Code[] = ["CANCELLED", "INTERNAL", "UNKNOWN"];
// grpc-js's words for a stream that a proxy has ended with HTTP/2's ENHANCE_YOUR_CALM, to limit its load.
const CALMED = "Bandwidth exhausted";
const RETRYABLE: readonly Code[] = ["UNAVAILABLE", "DEADLINE_EXCEEDED", ...CUT];

/** Returns the error of a call that ended with a status other than OK. */
export function errorOfStatus({ code: number, details, metadata }: StatusObject): ParleyError {
  const trailer = metadata.get(TRAILER)[0];
  try {
    if (trailer instanceof Uint8Array) return errorOfProto(fromBinary(ReplyErrorSchema, trailer));
  } catch {
    // Not a trailer of Parley: use the code.
  }
  // The code of gRPC is also that of a request that is too large.
  const calmed = number === status.RESOURCE_EXHAUSTED && details.startsWith(CALMED);
  const code = calmed ? "UNAVAILABLE" : codeName(number);
  const kind = CUT.includes(code) ? Unavailable : (BY_CODE[code] ?? ParleyError);
  return new kind(details || code, { code, retryable: RETRYABLE.includes(code) });
}

/** Returns the error of a `ReplyError`. An unknown reason gives the class of its status code. */
export function errorOfProto(proto: ReplyError): ParleyError {
  const fields = fieldsOf(proto);
  return new (BY_REASON[fields.reason] ?? BY_CODE[fields.code] ?? ParleyError)(proto.message, fields);
}

/** Returns the fields of a `ReplyError` for an error. */
export function fieldsOf(proto: ReplyError): ErrorFields & { reason: Reason | "" } {
  const known = ErrorReason[proto.reason] as Reason | undefined;
  return {
    reason: proto.reason === ErrorReason.UNSPECIFIED ? "" : (known ?? `UNKNOWN_${Number(proto.reason)}`),
    code: codeName(proto.code),
    retryable: proto.retryable,
    retryAfterMs: proto.retryAfter && durationMs(proto.retryAfter),
    metadata: proto.metadata,
  };
}

/** True if the same call may be retried: no server was available, the call was cut, or a rate is limited. */
export function mayRetry(error: ParleyError): boolean {
  const { code, reason } = error;
  const limited = error instanceof RateLimited && error.retryable;
  return limited || code === "UNAVAILABLE" || (reason === "" && CUT.includes(code));
}

/** True if the error is the end of the reply, as in its terminal chunk. */
export function endsReply(error: ParleyError): boolean {
  return error.reason !== "" && (error instanceof ReplyFailed || error instanceof InternalError);
}

/** Returns the error of a call that the client itself ends. */
export function unavailable(message: string, retryable = true, cause?: unknown): ParleyError {
  return new Unavailable(message, { code: "UNAVAILABLE", retryable, cause });
}

/** Why the calls of a closed client end. Web streams of a server that shuts down end without an error. */
export class ClientClosed extends Unavailable {
  constructor() {
    super("the client is closed", { code: "UNAVAILABLE" });
  }
}

function codeName(code: number): Code {
  return (status[code] as Code | undefined) ?? "UNKNOWN";
}
