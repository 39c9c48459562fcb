/** A wire with the caller's identity, and unary calls with retries. */

import { Metadata } from "@grpc/grpc-js";
import type { DescMessage, MessageInitShape, MessageShape } from "@bufbuild/protobuf";
import { Patience } from "./backoff.js";
import type { Call, Method } from "./call.js";
import { CredentialFailed, ParleyError } from "./errors.js";
import { headersOf, type Settings } from "./settings.js";
import { mayRetry } from "./status.js";
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

// Time limit of the function for the credential.
const CREDENTIAL_MS = 10_000;

export class Connection {
  /** The metadata of each call; with a function for the credential, without `authorization`. */
  readonly #metadata: Metadata;

  constructor(
    readonly wire: Wire,
    readonly settings: Settings,
    private readonly credentialMs = CREDENTIAL_MS,
  ) {
    const { apiKey, endUser } = settings;
    this.#metadata = metadataOf(typeof apiKey === "string" ? apiKey : "", endUser);
  }

  /** Returns a connection for another end user over the same wire. */
  actingFor(endUser: string): Connection {
    return new Connection(this.wire, { ...this.settings, endUser }, this.credentialMs);
  }

  /**
   * Returns the metadata of one attempt. A function for the credential is called each time. Throws `CredentialFailed`,
   * `Unavailable` if the client was closed, or the signal's reason.
   */
  async metadata(signal: AbortSignal | undefined): Promise<Metadata> {
    const { apiKey, endUser } = this.settings;
    if (typeof apiKey === "string") return this.#metadata;
    const answered = new AbortController();
    const answer = () => answered.abort();
    signal?.addEventListener("abort", answer);
    try {
      const late = this.wire.pause(this.credentialMs, answered.signal);
      const credential = await Promise.race([Promise.resolve(apiKey()), late]);
      signal?.throwIfAborted();
      this.wire.check();
      if (credential === undefined)
        throw credentialFailed(`did not return within ${this.credentialMs / 1e3} s`);
      if (typeof credential !== "string" || !credential) throw new TypeError("the credential is empty");
      return metadataOf(credential, endUser);
    } catch (cause) {
      signal?.throwIfAborted();
      this.wire.check();
      if (cause instanceof CredentialFailed) throw cause;
      // The text of the function's own error may contain a secret: only the cause has it.
      throw credentialFailed(`failed with ${cause instanceof Error ? cause.name : typeof cause}`, cause);
    } finally {
      signal?.removeEventListener("abort", answer);
      answered.abort();
    }
  }

  /** Starts a call. The caller must read it to its end or cancel it. */
  start<I extends DescMessage, O extends DescMessage>(
    method: Method<I, O>,
    request: MessageInitShape<I>,
    metadata: Metadata,
    timeoutMs: number,
  ): Call<I, O> {
    return this.wire.start(method, request, metadata, timeoutMs);
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
      const metadata = await this.metadata(signal);
      signal?.throwIfAborted();
      patience.tries();
      const call = this.start(
        method,
        typeof request === "function" ? request() : request,
        metadata,
        timeoutMs,
      );
      const cancel = () => call.cancel();
      signal?.addEventListener("abort", cancel);
      let delayMs: number | undefined;
      try {
        return await call.answer();
      } catch (error) {
        signal?.throwIfAborted();
        this.wire.check();
        if (!(error instanceof ParleyError && repeatable && mayRetry(error))) throw error;
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

function metadataOf(credential: string, endUser: string): Metadata {
  const metadata = new Metadata();
  for (const [key, value] of Object.entries(headersOf(credential, endUser))) metadata.set(key, value);
  return metadata;
}

function credentialFailed(what: string, cause?: unknown): CredentialFailed {
  const message = `the function for the credential ${what}`;
  return new CredentialFailed(message, { code: "UNAUTHENTICATED", retryable: true, cause });
}
