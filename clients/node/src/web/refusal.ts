/**
 * Converts errors to HTTP refusals: a status, headers, and a JSON body that a browser may show.
 *
 * A body never has the text of a defect, an address or a path: such errors get a neutral sentence.
 */

import type { OutgoingHttpHeaders } from "node:http";
import { ParleyError, ReplyFailed, type Code } from "../errors.js";

/** The JSON of a refusal. `message` and `error` are the same text, since products read either. */
export interface RefusalBody {
  readonly message: string;
  readonly error: string;
  /** The name of an `ErrorReason`, or the name of the HTTP status, such as "BAD_REQUEST". */
  readonly code: string;
  /** True if a new attempt may succeed. */
  readonly retryable: boolean;
}

export interface Refusal {
  readonly status: number;
  readonly headers: OutgoingHttpHeaders;
  readonly body: RefusalBody;
}

/** A refusal by the product itself. Throw it from a route or from the function that finds the end user. */
export class Refused extends Error {
  override readonly name = "Refused";

  /** The default of `message` is the sentence of the status, that of `code` is its name. */
  constructor(
    readonly status: number,
    message?: string,
    readonly fields: {
      readonly code?: string | undefined;
      readonly retryable?: boolean | undefined;
      readonly headers?: OutgoingHttpHeaders | undefined;
    } = {},
  ) {
    super(message ?? familyOf(status)[1]);
  }
}

const FAMILIES: Readonly<Record<number, readonly [code: string, message: string]>> = {
  400: ["BAD_REQUEST", "The request is not valid."],
  401: ["UNAUTHENTICATED", "Sign in first."],
  403: ["FORBIDDEN", "This is not allowed."],
  404: ["NOT_FOUND", "There is nothing at this address."],
  405: ["METHOD_NOT_ALLOWED", "This address does not take this method."],
  409: ["CONFLICT", "The request does not fit the current state."],
  413: ["TOO_LARGE", "The request is too large."],
  415: ["UNSUPPORTED_MEDIA_TYPE", "The request must have JSON as its content type."],
  429: ["TOO_MANY_REQUESTS", "There were too many requests. Try again later."],
  500: ["INTERNAL", "Something went wrong on the server."],
  502: ["BAD_GATEWAY", "The chat service did not answer as expected. Try again later."],
  503: ["UNAVAILABLE", "The chat service cannot be reached at the moment. Try again in a moment."],
};

const STATUSES: Readonly<Partial<Record<Code, number>>> = {
  INVALID_ARGUMENT: 400,
  NOT_FOUND: 404,
  ALREADY_EXISTS: 409,
  ABORTED: 409,
  RESOURCE_EXHAUSTED: 429,
  UNAVAILABLE: 503,
};

/** Parley refused the credential of this server, which is not the fault of the browser. */
const OF_THE_BACKEND: readonly Code[] = ["UNAUTHENTICATED", "PERMISSION_DENIED"];

/** Returns the refusal of any error: of Parley, of the product (`Refused`), of the framework, or a defect (500). */
export function refusal(error: unknown): Refusal {
  if (error instanceof ParleyError) return ofParley(error);
  if (error instanceof Refused) return refused(error.status, error.message, error.fields);
  const status = statusOf(error);
  return refused(status, familyOf(status)[1], {});
}

/** True for an error that the operator must see: a defect, a lost Parley, or a credential of this server that is refused. */
export function concernsOperator(error: unknown): boolean {
  if (error instanceof ParleyError) return isForeign(error);
  return !(error instanceof Refused) && statusOf(error) === 500;
}

/** True for errors that are not about the request: those of the transport, and of this server's own credential. */
function isForeign({ reason, code }: ParleyError): boolean {
  return reason === "" || OF_THE_BACKEND.includes(code);
}

function ofParley(error: ParleyError): Refusal {
  const status = statusOfParley(error);
  const foreign = isForeign(error);
  const known = foreign ? {} : { code: error.reason };
  const wait = error.retryAfterMs === undefined ? {} : { "retry-after": secondsOf(error.retryAfterMs) };
  const message = foreign ? familyOf(status)[1] : error.message;
  return refused(status, message, { ...known, retryable: error.retryable, headers: wait });
}

function statusOfParley(error: ParleyError): number {
  if (error.reason === "INPUT_TOO_LARGE" || error.reason === "CONTEXT_TOO_LARGE") return 413;
  if (error instanceof ReplyFailed) return 502; // its ABORTED would read as a conflict
  return STATUSES[error.code] ?? 502;
}

/** The status that a framework sets on an error. Its text is not shown: it may quote the request or a path. */
function statusOf(error: unknown): number {
  const { status, statusCode } = (error ?? {}) as { status?: unknown; statusCode?: unknown };
  const found = status ?? statusCode;
  return typeof found === "number" && Number.isInteger(found) && found >= 400 && found < 500 ? found : 500;
}

function refused(status: number, message: string, fields: Refused["fields"]): Refusal {
  const { code = familyOf(status)[0], retryable = status === 503 } = fields;
  const headers = { ...(status === 401 && { "www-authenticate": "Bearer" }), ...fields.headers };
  return { status, headers, body: { message, error: message, code, retryable } };
}

function familyOf(status: number): readonly [code: string, message: string] {
  return FAMILIES[status] ?? FAMILIES[status < 500 ? 400 : 502]!;
}

/** Whole seconds for Retry-After, rounded up, at least 1. */
function secondsOf(ms: number): string {
  return String(Math.max(1, Math.ceil(ms / 1_000)));
}
