/** A wire with the caller's identity, and unary calls with retries. */

import { Metadata } from "@grpc/grpc-js";
import type { DescMessage, MessageInitShape, MessageShape } from "@bufbuild/protobuf";
import { Patience } from "./backoff.js";
import type { Call, Method } from "./call.js";
import { ParleyError } from "./errors.js";
import { headersOf, type Settings } from "./settings.js";
import { isCut } from "./status.js";
import type { Wire } from "./wire.js";

export interface CallOptions {
  /** Aborts the call, which then rejects with the signal's reason. */
  signal?: AbortSignal | undefined;
}

export interface UnaryOptions extends CallOptions {
  /** Limit of one attempt; 0 is no limit. */
  readonly timeoutMs?: number | undefined;
  readonly repeatable?: boolean | undefined;
}

export class Connection {
  readonly #metadata = new Metadata();

  constructor(
    readonly wire: Wire,
    readonly settings: Settings,
  ) {
    for (const [key, value] of Object.entries(headersOf(settings))) this.#metadata.set(key, value);
  }

  /** Returns a connection for another end user over the same wire. */
  actingFor(endUser: string): Connection {
    return new Connection(this.wire, { ...this.settings, endUser });
  }

  /** Starts a call. The caller must read it to its end or cancel it. */
  start<I extends DescMessage, O extends DescMessage>(
    method: Method<I, O>,
    request: MessageInitShape<I>,
    timeoutMs: number,
  ): Call<I, O> {
    return this.wire.start(method, request, this.#metadata, timeoutMs);
  }

  /**
   * Calls once; if `repeatable`, again after each cut until the backoff stops it. A `request` that is a function
   * returns the request of each attempt. Throws a ParleyError, or the signal's reason.
   */
  async unary<I extends DescMessage, O extends DescMessage>(
    method: Method<I, O>,
    request: MessageInitShape<I> | (() => MessageInitShape<I>),
    { timeoutMs = this.settings.callTimeoutMs, repeatable = true, signal }: UnaryOptions = {},
  ): Promise<MessageShape<O>> {
    const patience = new Patience(this.settings.backoff);
    for (;;) {
      signal?.throwIfAborted();
      patience.tries();
      const call = this.start(method, typeof request === "function" ? request() : request, timeoutMs);
      const cancel = () => call.cancel();
      signal?.addEventListener("abort", cancel);
      let delayMs: number | undefined;
      try {
        return await call.answer();
      } catch (error) {
        signal?.throwIfAborted();
        this.wire.check();
        if (!(error instanceof ParleyError && repeatable && isCut(error))) throw error;
        delayMs = patience.failed(error.retryAfterMs, this.wire.reach.reached);
        if (delayMs === undefined) throw error;
      } finally {
        signal?.removeEventListener("abort", cancel);
        call.cancel();
      }
      await this.wire.pause(delayMs, signal);
    }
  }
}
