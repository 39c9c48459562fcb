/** Retry delays, and the limit after which retries stop. */

// Limit for a client that has never reached a server, since the address may be wrong.
const UNREACHED_MS = 5_000;

/**
 * Exponential backoff with jitter. All times are in milliseconds.
 *
 * The n-th delay is random between 50 and 100 % of min(firstMs * 2 ** n, maxMs), rounded to milliseconds. The server's
 * `retryAfterMs` is a lower bound.
 *
 * Retries stop `maxElapsedMs` after the first failure since the last progress; 0 disables retries. A client that has
 * never reached a server stops after 5 seconds.
 */
export interface Backoff {
  readonly firstMs: number;
  readonly maxMs: number;
  readonly maxElapsedMs: number;
}

export const DEFAULT_BACKOFF: Backoff = { firstMs: 100, maxMs: 5_000, maxElapsedMs: 60_000 };

/** Applies a `Backoff` to the failures of one call or stream. */
export class Patience {
  attempts = 0;
  #tryingSince: number | undefined;
  #failingSince: number | undefined;

  constructor(
    private readonly backoff: Backoff,
    private readonly now: () => number = () => performance.now(),
    private readonly random: () => number = Math.random,
  ) {}

  /** Starts an attempt. */
  tries(): void {
    this.#tryingSince ??= this.now();
  }

  /** Resets the count, since something new was received. */
  progressed(): void {
    this.#tryingSince = this.#failingSince = undefined;
    this.attempts = 0;
  }

  /**
   * Returns the milliseconds to wait before the next attempt, or undefined to stop. `reached`: a server was ever
   * reached.
   */
  failed(retryAfterMs = 0, reached = true): number | undefined {
    const now = this.now();
    this.#failingSince ??= now;
    const wholeMs = Math.min(this.backoff.firstMs * 2 ** this.attempts, this.backoff.maxMs);
    const delayMs = Math.round(Math.max(wholeMs * (0.5 + 0.5 * this.random()), retryAfterMs));
    if (now + delayMs - this.#failingSince > this.backoff.maxElapsedMs) return undefined;
    if (!reached && now + delayMs - (this.#tryingSince ?? now) > UNREACHED_MS) return undefined;
    this.attempts += 1;
    return delayMs;
  }
}
