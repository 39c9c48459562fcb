/**
 * One gRPC call, read message by message.
 *
 * It uses grpc-js's `Channel.createCall` instead of its Readable, which reads 16 messages ahead of any size and costs a
 * third more CPU per token (docs/adr/0008). At most `READ_AHEAD_BYTES` and one message wait in memory; then reading
 * stops, and HTTP/2's flow control slows the server down.
 */

import { propagate, status, type Channel, type Metadata, type StatusObject } from "@grpc/grpc-js";
import {
  create,
  fromBinary,
  toBinary,
  type DescMessage,
  type DescMethod,
  type MessageInitShape,
  type MessageShape,
} from "@bufbuild/protobuf";
import { ParleyError } from "./errors.js";
import type { Reach } from "./reach.js";
import { errorOfStatus, unavailable } from "./status.js";

const READ_AHEAD_BYTES = 64 * 1024;
const LONGEST_TIMER_MS = 2 ** 31 - 1;
const GRPC = "application/grpc";

export type Method<I extends DescMessage, O extends DescMessage> = DescMethod & { input: I; output: O };

export interface CallOptions {
  metadata: Metadata;
  /** 0 is no limit. */
  timeoutMs: number;
  /** Runs once, when the call has its status. */
  onEnd: () => void;
  reach: Reach;
}

export class Call<I extends DescMessage, O extends DescMessage> {
  readonly #method: Method<I, O>;
  readonly #call: ReturnType<Channel["createCall"]>;
  readonly #reach: Reach;
  readonly #unread: Uint8Array[] = [];
  #unreadBytes = 0;
  #asked = false;
  #status: StatusObject | undefined;
  #error: ParleyError | undefined;
  #wake: (() => void) | undefined;

  constructor(channel: Channel, method: Method<I, O>, request: MessageInitShape<I>, options: CallOptions) {
    this.#method = method;
    this.#reach = options.reach;
    const deadline = options.timeoutMs > 0 ? Date.now() + options.timeoutMs : Infinity;
    const path = `/${method.parent.typeName}/${method.name}`;
    this.#call = channel.createCall(path, deadline, null, null, propagate.DEFAULTS);
    let isPage = false;
    this.#call.start(options.metadata, {
      onReceiveMetadata: (headers) => {
        isPage = !String(headers.get("content-type")[0] ?? GRPC).startsWith(GRPC);
      },
      onReceiveMessage: (message: Buffer) => this.#take(message),
      onReceiveStatus: (ended) => {
        if (ended.code === status.OK) this.#reach.reached = true;
        else this.#error ??= this.#reach.explain(errorOfStatus(isPage ? pageStatus(ended) : ended), channel);
        this.#status ??= ended;
        options.onEnd();
        this.#wake?.();
      },
    });
    const body = toBinary(method.input, create(method.input, request));
    this.#call.sendMessageWithContext({}, Buffer.from(body.buffer, body.byteOffset, body.byteLength));
    this.#call.halfClose();
    this.#ask();
  }

  /**
   * Returns the next message, or undefined after a call that ended with OK. Throws a ParleyError for any other status,
   * and `Unavailable` if no message arrived for `silenceMs`. One reader at a time.
   */
  async read(silenceMs = Infinity): Promise<MessageShape<O> | undefined> {
    for (;;) {
      const message = this.#unread.shift();
      if (message) {
        this.#unreadBytes -= message.length;
        this.#ask();
        return this.#decode(message);
      }
      if (this.#error) throw this.#error;
      if (this.#status) return undefined;
      await this.#arrival(silenceMs);
    }
  }

  /** Returns the message of a unary call. */
  async answer(): Promise<MessageShape<O>> {
    const message = await this.read();
    if (message === undefined) throw new ParleyError("the server sent no answer", { code: "DATA_LOSS" });
    return message;
  }

  /** Cancels the call, drops unread messages and wakes the reader. Does nothing after the end of the call. */
  cancel(): void {
    this.#unread.length = 0;
    if (!this.#status) this.#call.cancelWithStatus(status.CANCELLED, "cancelled by the caller");
  }

  #take(message: Buffer): void {
    this.#reach.reached = true;
    this.#asked = false;
    this.#unread.push(message);
    this.#unreadBytes += message.length;
    this.#ask();
    this.#wake?.();
  }

  #ask(): void {
    if (this.#asked || this.#status || this.#unreadBytes >= READ_AHEAD_BYTES) return;
    this.#asked = true;
    this.#call.startRead();
  }

  #arrival(limitMs: number): Promise<void> {
    return new Promise((resolve, reject) => {
      const late = () => reject(unavailable(`the stream was silent for ${limitMs / 1_000} s`));
      const timer = limitMs <= LONGEST_TIMER_MS ? setTimeout(late, limitMs) : undefined;
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  #decode(message: Uint8Array): MessageShape<O> {
    try {
      return fromBinary(this.#method.output, message);
    } catch (cause) {
      this.cancel();
      throw new ParleyError("the server's answer cannot be decoded", { code: "DATA_LOSS", cause });
    }
  }
}

/** grpc-js reads a page with HTTP status 200 as a message that is too large; gRPC's mapping gives UNKNOWN. */
function pageStatus(ended: StatusObject): StatusObject {
  if (ended.code !== status.RESOURCE_EXHAUSTED) return ended;
  return { ...ended, code: status.UNKNOWN, details: "the answer is not one of gRPC" };
}
