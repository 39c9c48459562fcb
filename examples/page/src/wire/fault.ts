import { failure, type Failure } from "./events";

/**
 * refused: the backend answered with an error status before the reply began.
 * cut: the connection ended before the last event, so that the page has to ask how the reply went on.
 * fatal: this page cannot go on.
 */
export type FaultKind = "refused" | "cut" | "fatal";

export class Fault extends Error {
  override name = "Fault";

  constructor(
    readonly kind: FaultKind,
    readonly failure: Failure,
    /** The HTTP status of a refusal. */
    readonly status = 0,
  ) {
    super(failure.message);
  }
}

export function cut(): Fault {
  const message = "The connection was lost.";
  return new Fault("cut", failure("NETWORK_ERROR", message, { retryable: true }));
}

export function unreadable(): Fault {
  const message = "The server's answer could not be read.";
  return new Fault("cut", failure("PARSE_ERROR", message, { retryable: true }));
}

export function aborted(error: unknown): boolean {
  return error instanceof DOMException && error.name === "AbortError";
}
