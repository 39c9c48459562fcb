/** When to try again, and when to give up. Knows nothing of calls. */

/**
 * Exponential, with jitter: the n-th delay lies between half and the whole of min(firstMs * 2 ** n, maxMs).
 *
 * It gives up once `maxElapsedMs` have passed since the first failure without progress in between; 0 never tries
 * again. The server's own `retryAfterMs` is a lower bound of a delay.
 */
export interface Backoff {
  readonly firstMs: number;
  readonly maxMs: number;
  readonly maxElapsedMs: number;
}

export const DEFAULT_BACKOFF: Backoff = { firstMs: 100, maxMs: 5_000, maxElapsedMs: 60_000 };

/** Counts the failures of one call or stream against its `Backoff`. */
export class Patience {
  attempts = 0;
  #failingSince: number | undefined;

  constructor(
    private readonly backoff: Backoff,
    private readonly now: () => number = () => performance.now(),
    private readonly random: () => number = Math.random,
  ) {}

  /** Something new has come: the count starts afresh. */
  progressed(): void {
    this.#failingSince = undefined;
    this.attempts = 0;
  }

  /** Milliseconds to wait before the next attempt; undefined means give up. */
  failed(retryAfterMs = 0): number | undefined {
    const now = this.now();
    this.#failingSince ??= now;
    const wholeMs = Math.min(this.backoff.firstMs * 2 ** this.attempts, this.backoff.maxMs);
    const delayMs = Math.max(wholeMs * (0.5 + 0.5 * this.random()), retryAfterMs);
    if (now + delayMs - this.#failingSince > this.backoff.maxElapsedMs) return undefined;
    this.attempts += 1;
    return delayMs;
  }
}
