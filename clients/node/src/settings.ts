/** Options of a client: identity, backoff, time limits and transport. */

import type { ChannelOptions } from "@grpc/grpc-js";
import { DEFAULT_BACKOFF, type Backoff } from "./backoff.js";
import type { TlsOptions } from "./wire.js";

/** Options of a client; times are in milliseconds. */
export interface ClientOptions {
  /** A static key or a JWT. */
  apiKey?: string | undefined;
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
  /** True to use Node's root certificates, or certificates. */
  tls?: boolean | TlsOptions | undefined;
  /** Further options of the grpc-js channel, which override the client's. */
  channelOptions?: ChannelOptions | undefined;
}

/** The settings of a connection. */
export interface Settings {
  readonly apiKey: string;
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

/** Returns the metadata of each call. Throws TypeError for characters that metadata cannot contain. */
export function headersOf(settings: Settings): Record<string, string> {
  const headers: Record<string, string> = {};
  if (settings.apiKey) headers["authorization"] = `Bearer ${settings.apiKey}`;
  if (settings.endUser) headers["x-end-user"] = settings.endUser;
  for (const [key, value] of Object.entries(headers)) {
    if (!/^[ -~]*$/.test(value))
      throw new TypeError(`${key}: only printable ASCII is allowed in gRPC metadata`);
  }
  return headers;
}
