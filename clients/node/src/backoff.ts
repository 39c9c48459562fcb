/** When to try again, and when to give up. Knows nothing of calls. */

// A client that has never reached a server gives up after so long: the address is wrong, or no server runs.
const UNREACHED_MS = 5_000;

/**
 * Exponential, with jitter: the n-th delay lies between half and the whole of min(firstMs * 2 ** n, maxMs), in whole
 * milliseconds.
 *
 * It gives up once `maxElapsedMs` have passed since the first failure without progress in between; 0 never tries
 * again. Where the client has never reached a server, it gives up after 5 seconds at the latest. The server's own
 * `retryAfterMs` is a lower bound of a delay.
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
  #tryingSince: number | undefined;
  #failingSince: number | undefined;

  constructor(
    private readonly backoff: Backoff,
    private readonly now: () => number = () => performance.now(),
    private readonly random: () => number = Math.random,
  ) {}

  /** An attempt begins. */
  tries(): void {
    this.#tryingSince ??= this.now();
  }

  /** Something new has come: the count starts afresh. */
  progressed(): void {
    this.#tryingSince = this.#failingSince = undefined;
    this.attempts = 0;
  }

  /** Milliseconds to wait before the next attempt; undefined means give up. `reached`: whether a server ever was. */
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
