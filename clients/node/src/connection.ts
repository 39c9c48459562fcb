/** A wire with the identity of a caller, and unary calls over it that try again by themselves. */

import { Metadata } from "@grpc/grpc-js";
import type { DescMessage, MessageInitShape, MessageShape } from "@bufbuild/protobuf";
import { Patience, type Backoff } from "./backoff.js";
import type { Call, Method } from "./call.js";
import { ParleyError } from "./errors.js";
import { isCut } from "./status.js";
import type { Wire } from "./wire.js";

export interface ConnectionOptions {
  readonly apiKey: string;
  readonly endUser: string;
  readonly backoff: Backoff;
  readonly callTimeoutMs: number;
}

export interface UnaryOptions {
  /** Of one attempt; 0 is no limit. */
  readonly timeoutMs?: number | undefined;
  readonly repeatable?: boolean | undefined;
  readonly signal?: AbortSignal | undefined;
}

export class Connection {
  readonly wire: Wire;
  readonly backoff: Backoff;
  readonly #options: ConnectionOptions;
  readonly #metadata: Metadata;

  constructor(wire: Wire, options: ConnectionOptions) {
    this.wire = wire;
    this.backoff = options.backoff;
    this.#options = options;
    this.#metadata = metadataOf(options);
  }

  /** The same wire, for another end user. */
  actingFor(endUser: string): Connection {
    return new Connection(this.wire, { ...this.#options, endUser });
  }

  /** Starts a call. Whoever starts it reads it to its end, or cancels it. */
  start<I extends DescMessage, O extends DescMessage>(
    method: Method<I, O>,
    request: MessageInitShape<I>,
    timeoutMs: number,
  ): Call<I, O> {
    return this.wire.start(method, request, this.#metadata, timeoutMs);
  }

  /**
   * Calls once, or, where `repeatable`, again after each cut for as long as the backoff allows. A `request` that is a
   * function is asked for each attempt's request. Throws a ParleyError, or the signal's reason.
   */
  async unary<I extends DescMessage, O extends DescMessage>(
    method: Method<I, O>,
    request: MessageInitShape<I> | (() => MessageInitShape<I>),
    { timeoutMs = this.#options.callTimeoutMs, repeatable = true, signal }: UnaryOptions = {},
  ): Promise<MessageShape<O>> {
    const patience = new Patience(this.backoff);
    for (;;) {
      signal?.throwIfAborted();
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
        delayMs = patience.failed(error.retryAfterMs);
        if (delayMs === undefined) throw error;
      } finally {
        signal?.removeEventListener("abort", cancel);
        call.cancel();
      }
      await this.wire.pause(delayMs, signal);
    }
  }
}

function metadataOf({ apiKey, endUser }: ConnectionOptions): Metadata {
  const metadata = new Metadata();
  const pairs: Record<string, string> = {};
  if (apiKey) pairs["authorization"] = `Bearer ${apiKey}`;
  if (endUser) pairs["x-end-user"] = endUser;
  for (const [key, value] of Object.entries(pairs)) {
    if (!/^[ -~]*$/.test(value)) throw new TypeError(`${key}: gRPC metadata takes printable ASCII alone`);
    metadata.set(key, value);
  }
  return metadata;
}
