/** Who calls, and how a client goes about its calls. */

import type { ChannelOptions } from "@grpc/grpc-js";
import { DEFAULT_BACKOFF, type Backoff } from "./backoff.js";
import type { TlsOptions } from "./wire.js";

/** Options of a client; times are in milliseconds. */
export interface ClientOptions {
  /** A static key or a JWT. */
  apiKey?: string | undefined;
  /** Whom an API key acts for. */
  endUser?: string | undefined;
  /** How streams and calls are tried again. */
  backoff?: Partial<Backoff> | undefined;
  /** The time limit of one attempt of a call that is not a stream. By default 30,000. */
  callTimeoutMs?: number | undefined;
  /** A stream that brings nothing for so long, not even a heartbeat, is attached anew. By default 90,000. */
  silenceMs?: number | undefined;
  /** A stream whose call has lasted so long is attached anew. By default 0, which is no limit. */
  attemptTimeoutMs?: number | undefined;
  /** True for the roots that Node trusts, or certificates. */
  tls?: boolean | TlsOptions | undefined;
  /** Further options of the grpc-js channel, which win over the client's own. */
  channelOptions?: ChannelOptions | undefined;
}

/** All of it. */
export interface Settings {
  readonly apiKey: string;
  readonly endUser: string;
  readonly backoff: Backoff;
  readonly callTimeoutMs: number;
  readonly silenceMs: number;
  readonly attemptTimeoutMs: number;
}

/** With defaults for what a caller has not told. Throws TypeError. */
export function settingsOf(options: ClientOptions): Settings {
  return {
    apiKey: options.apiKey ?? "",
    endUser: options.endUser ?? "",
    backoff: { ...DEFAULT_BACKOFF, ...options.backoff },
    callTimeoutMs: options.callTimeoutMs ?? 30_000,
    silenceMs: options.silenceMs ?? 90_000,
    attemptTimeoutMs: options.attemptTimeoutMs ?? 0,
  };
}

/** What each call carries. Throws TypeError for what metadata cannot carry. */
export function headersOf(settings: Settings): Record<string, string> {
  const headers: Record<string, string> = {};
  if (settings.apiKey) headers["authorization"] = `Bearer ${settings.apiKey}`;
  if (settings.endUser) headers["x-end-user"] = settings.endUser;
  for (const [key, value] of Object.entries(headers)) {
    if (!/^[ -~]*$/.test(value)) throw new TypeError(`${key}: gRPC metadata takes printable ASCII alone`);
  }
  return headers;
}
