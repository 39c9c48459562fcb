/** One channel to a Parley server, and its calls and pauses. */

import {
  Channel,
  connectivityState,
  credentials,
  type ChannelCredentials,
  type ChannelOptions,
  type Metadata,
} from "@grpc/grpc-js";
import type { DescMessage, MessageInitShape } from "@bufbuild/protobuf";
import { Call, type Method } from "./call.js";
import { Reach } from "./reach.js";
import { ClientClosed } from "./status.js";

const CHANNEL_OPTIONS: ChannelOptions = {
  "grpc.keepalive_time_ms": 30_000,
  "grpc.keepalive_timeout_ms": 10_000,
  "grpc.max_receive_message_length": 16 * 1024 * 1024,
  // The client retries itself: gRPC hides its attempts and cannot resume a stream.
  "grpc.enable_retries": 0,
  // The default of up to 2 minutes would override the client's own backoff.
  "grpc.initial_reconnect_backoff_ms": 100,
  "grpc.max_reconnect_backoff_ms": 5_000,
  // By default the clients of a process share connections and cannot close them.
  "grpc.use_local_subchannel_pool": 1,
};

// grpc-js has no time limit for connecting: the one of the kernel would apply.
const CONNECT_MS = 5_000;

/** Certificates in PEM. The default of `ca` is Node's root certificates; `cert` and `key` are the client's (mTLS). */
export interface TlsOptions {
  readonly ca?: Buffer | undefined;
  readonly cert?: Buffer | undefined;
  readonly key?: Buffer | undefined;
}

export class Wire {
  readonly reach: Reach;
  #closed = false;
  readonly #newChannel: () => Channel;
  #channel: Channel;
  #connecting: NodeJS.Timeout | undefined;
  /** Functions that end the running calls and pauses when the client is closed. */
  readonly #open = new Set<() => void>();

  constructor(address: string, tls: boolean | TlsOptions, options: ChannelOptions) {
    this.reach = new Reach(address, tls !== false);
    const channelOptions = { ...CHANNEL_OPTIONS, ...options };
    this.#newChannel = () => new Channel(address, credentialsOf(tls), channelOptions);
    this.#channel = this.#newChannel();
  }

  /** Ends all calls and pauses, and closes the channel. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    clearTimeout(this.#connecting);
    for (const end of [...this.#open]) end();
    this.#channel.close();
  }

  /** Throws `Unavailable` if the client was closed. */
  check(): void {
    if (this.#closed) throw new ClientClosed();
  }

  /** Starts a call. The caller must read it to its end or cancel it. */
  start<I extends DescMessage, O extends DescMessage>(
    method: Method<I, O>,
    request: MessageInitShape<I>,
    metadata: Metadata,
    timeoutMs: number,
  ): Call<I, O> {
    this.check();
    const cancel = () => call.cancel();
    const call = new Call(this.#channel, method, request, {
      metadata: metadata.clone(),
      timeoutMs,
      onEnd: () => this.#open.delete(cancel),
      reach: this.reach,
    });
    this.#open.add(cancel);
    this.#boundConnecting();
    return call;
  }

  /** Waits until `ms` have passed, the client is closed, or the signal is aborted. */
  pause(ms: number, signal: AbortSignal | undefined): Promise<void> {
    if (this.#closed || signal?.aborted) return Promise.resolve();
    return new Promise((resolve) => {
      const end = () => {
        clearTimeout(timer);
        this.#open.delete(end);
        signal?.removeEventListener("abort", end);
        resolve();
      };
      const timer = setTimeout(end, ms);
      this.#open.add(end);
      signal?.addEventListener("abort", end);
    });
  }

  /** Replaces a channel that is still connecting after `CONNECT_MS`; its calls fail and are retried. */
  #boundConnecting(): void {
    if (this.#connecting || this.#channel.getConnectivityState(false) === connectivityState.READY) return;
    this.#connecting = setTimeout(() => {
      this.#connecting = undefined;
      if (this.#channel.getConnectivityState(false) !== connectivityState.CONNECTING) return;
      this.#channel.close();
      this.#channel = this.#newChannel();
    }, CONNECT_MS).unref();
  }
}

function credentialsOf(tls: boolean | TlsOptions): ChannelCredentials {
  if (tls === false) return credentials.createInsecure();
  const { ca, cert, key } = tls === true ? {} : tls;
  return credentials.createSsl(ca ?? null, key ?? null, cert ?? null);
}
