/**
 * One gRPC call, read message by message.
 *
 * It stands on grpc-js's `Channel.createCall`, not on its Readable: that asks for 16 messages ahead whatever their size,
 * and costs a third more per token (docs/adr/0008). Here at most `READ_AHEAD_BYTES` and one message wait in memory; beyond
 * them nothing is asked for, and HTTP/2's flow control holds the server back.
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

export type Method<I extends DescMessage, O extends DescMessage> = DescMethod & { input: I; output: O };

export interface CallOptions {
  metadata: Metadata;
  /** 0 is no limit. */
  timeoutMs: number;
  /** Runs once, when the call's status is known. */
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
    this.#call.start(options.metadata, {
      onReceiveMetadata: () => {},
      onReceiveMessage: (message: Buffer) => this.#take(message),
      onReceiveStatus: (ended) => {
        if (ended.code === status.OK) this.#reach.reached = true;
        else this.#error ??= this.#reach.explain(errorOfStatus(ended), channel);
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
   * The next message, or undefined once the call has ended well. Throws a ParleyError where it ended otherwise, and
   * `Unavailable` where nothing came for `silenceMs`. One reader at a time.
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

  /** The one message of a unary call. */
  async answer(): Promise<MessageShape<O>> {
    const message = await this.read();
    if (message === undefined) throw new ParleyError("the server sent no answer", { code: "DATA_LOSS" });
    return message;
  }

  /** Ends the call, on the server too, and wakes its reader. What was not read is gone. Harmless once it has ended. */
  cancel(): void {
    this.#unread.length = 0;
    if (!this.#status) this.#call.cancelWithStatus(status.CANCELLED, "the caller left");
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
      const late = () => reject(unavailable(`nothing came for ${limitMs} ms`));
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
      throw new ParleyError("the server's answer cannot be read", { code: "DATA_LOSS", cause });
    }
  }
}
