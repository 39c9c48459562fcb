/** What all errors of the client have in common. */

import type { status } from "@grpc/grpc-js";
import type { ErrorReason } from "./gen/parley/v1/errors_pb.js";

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
