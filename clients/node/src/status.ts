/** Which error a status or a `ReplyError` stands for, and what it says about trying again. */

import { status, type StatusObject } from "@grpc/grpc-js";
import { fromBinary } from "@bufbuild/protobuf";
import { durationMs } from "@bufbuild/protobuf/wkt";
import {
  BY_CODE,
  BY_REASON,
  InternalError,
  ParleyError,
  ReplyFailed,
  Unavailable,
  type Code,
  type ErrorFields,
  type Reason,
} from "./errors.js";
import { ErrorReason, ReplyErrorSchema, type ReplyError } from "./gen/parley/v1/errors_pb.js";

const TRAILER = "parley-error-bin";
const RETRYABLE: readonly Code[] = ["UNAVAILABLE", "CANCELLED", "DEADLINE_EXCEEDED"];
// What proxies, a stopping server and RST_STREAM are seen to produce, beside UNAVAILABLE.
const CUT: readonly Code[] = ["CANCELLED", "INTERNAL", "UNKNOWN"];

/** The typed error of a call that ended with a status other than OK. */
export function errorOfStatus({ code: number, details, metadata }: StatusObject): ParleyError {
  const trailer = metadata.get(TRAILER)[0];
  try {
    if (trailer instanceof Uint8Array) return errorOfProto(fromBinary(ReplyErrorSchema, trailer));
  } catch {
    // Somebody else's trailer: the code is what is left.
  }
  const code = codeName(number);
  return new (BY_CODE[code] ?? ParleyError)(details || code, { code, retryable: RETRYABLE.includes(code) });
}

/** The typed error that a `ReplyError` stands for; a reason that is not known is read by its code. */
export function errorOfProto(proto: ReplyError): ParleyError {
  const fields = fieldsOf(proto);
  return new (BY_REASON[fields.reason] ?? BY_CODE[fields.code] ?? ParleyError)(proto.message, fields);
}

/** What a `ReplyError` says. */
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

/** Whether the call, and not what was asked for, has failed: the same call may be made again. */
export function isCut({ code, reason }: ParleyError): boolean {
  return code === "UNAVAILABLE" || (reason === "" && CUT.includes(code));
}

/** Whether a status says what a lost terminal chunk would have said. */
export function endsReply(error: ParleyError): boolean {
  return error.reason !== "" && (error instanceof ReplyFailed || error instanceof InternalError);
}

/** For a client that gives a call up by itself. */
export function unavailable(message: string, retryable = true, cause?: unknown): ParleyError {
  return new Unavailable(message, { code: "UNAVAILABLE", retryable, cause });
}

function codeName(code: number): Code {
  return (status[code] as Code | undefined) ?? "UNKNOWN";
}
