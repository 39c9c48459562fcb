/** Options of a client: identity, backoff, time limits and transport. */

import type { ChannelOptions } from "@grpc/grpc-js";
import { DEFAULT_BACKOFF, type Backoff } from "./backoff.js";
import type { TlsOptions } from "./wire.js";

/** An API key or a token (JWT), or a function that returns it for each attempt of a call. */
export type Credential = string | (() => string | Promise<string>);

/** Options of a client; times are in milliseconds. */
export interface ClientOptions {
  /**
   * An API key or a token (JWT), or a function that returns it, directly or as a promise. The function is called for each
   * attempt of a call, so that tokens can be renewed; a promise has 10 seconds. If it fails, the call throws
   * `CredentialFailed`.
   */
  apiKey?: Credential | undefined;
  /** The user on whose behalf the API key acts. */
  endUser?: string | undefined;
  /** Retries of streams and calls. */
  backoff?: Partial<Backoff> | undefined;
  /** Time limit of each attempt of a unary call. By default 30,000. */
  callTimeoutMs?: number | undefined;
  /** A stream reconnects after this time without a chunk or heartbeat. By default 90,000. */
  silenceMs?: number | undefined;
  /** A stream reconnects when its call has lasted this long. By default 0: no limit. */
  attemptTimeoutMs?: number | undefined;
  /** True to use Node's root certificates, or other ones; with `cert` and `key` the client's certificate (mTLS). */
  tls?: boolean | TlsOptions | undefined;
  /** Further options of the grpc-js channel, which override the client's. */
  channelOptions?: ChannelOptions | undefined;
}

/** The settings of a connection. */
export interface Settings {
  readonly apiKey: Credential;
  readonly endUser: string;
  readonly backoff: Backoff;
  readonly callTimeoutMs: number;
  readonly silenceMs: number;
  readonly attemptTimeoutMs: number;
}

/** Returns the options with their defaults. */
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

/** Returns metadata of one call. Throws TypeError for a value that metadata cannot contain. */
export function headersOf(credential: string, endUser: string): Record<string, string> {
  const headers: Record<string, string> = {};
  if (credential) headers["authorization"] = `Bearer ${credential}`;
  if (endUser) headers["x-end-user"] = endUser;
  for (const [key, value] of Object.entries(headers)) {
    if (!/^[ -~]*$/.test(value))
      throw new TypeError(`${key}: only printable ASCII is allowed in gRPC metadata`);
  }
  return headers;
}
