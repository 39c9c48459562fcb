/**
 * One reply as a stream of events that survives cuts: what a reader of the iterator cannot see is that calls end.
 *
 * It reads from the network only as its own reader asks, so that a slow reader costs no memory here.
 */

import { create, type DescMessage } from "@bufbuild/protobuf";
import { Patience } from "./backoff.js";
import type { Call } from "./call.js";
import type { Connection } from "./connection.js";
import { ConnectionLost, NotFound, ParleyError, TooManyReaders } from "./errors.js";
import type { Finished, ReplyEvent, ToolCall } from "./events.js";
import {
  CancelRequestSchema,
  Chat,
  type ReplyRequest,
  type StreamOptions,
  type TokenChunk,
  type TokenChunkSchema,
} from "./gen/parley/v1/chat_pb.js";
import type { Reply } from "./gen/parley/v1/resources_pb.js";
import { endsReply, isCut, unavailable } from "./status.js";
import type { Transcript } from "./transcript.js";

// How long a call may take to say its status after its terminal chunk, before it is dropped.
const FAREWELL_MS = 1_000;

/**
 * An async iterator over the events of one reply, for one reader.
 *
 * After a cut it attaches again by itself, with the client's backoff. It ends after `finished`, and throws `ReplyFailed`
 * (with the partial text) for a reply that failed, `ConnectionLost` where it gave up after the reply was accepted, the
 * signal's reason where that was aborted, or another ParleyError where the request was refused. Leaving the loop
 * (`break`, `return`, `throw`), `close` and the signal end the call at once, and leave the reply to its `onDisconnect`.
 * Nothing is sent before the first `next`.
 */
export class ReplyStream implements AsyncIterableIterator<ReplyEvent, undefined>, AsyncDisposable {
  readonly #transcript: Transcript;
  readonly #request: ReplyRequest | undefined;
  readonly #connection: Connection;
  readonly #options: StreamOptions;
  readonly #signal: AbortSignal | undefined;
  readonly #patience: Patience;
  readonly #events = this.#run();
  readonly #left = new AbortController();
  /** Whether the reader left by its signal, and `next` owes it the signal's reason. */
  #aborted = false;
  #call: Call<DescMessage, typeof TokenChunkSchema> | undefined;
  #pauseMs = 0;

  /** @internal Use `client.streamReply` or `client.resume`. */
  constructor(
    connection: Connection,
    transcript: Transcript,
    request: ReplyRequest | undefined,
    options: StreamOptions,
    signal: AbortSignal | undefined,
  ) {
    this.#transcript = transcript;
    this.#request = request;
    this.#connection = connection;
    this.#options = options;
    this.#signal = signal;
    this.#patience = new Patience(connection.settings.backoff);
  }

  /** The idempotency key of the request; empty for a stream made by `resume`. */
  get requestId(): string {
    return this.#request?.requestId ?? "";
  }

  /** Empty until the reply is accepted. */
  get replyId(): string {
    return this.#transcript.replyId;
  }

  /** Where the reply is; of a new conversation, empty until the reply is accepted. */
  get conversationId(): string {
    return this.#transcript.accepted?.conversationId ?? this.#request?.conversationId ?? "";
  }

  /** The message that will hold the answer; empty until the reply is accepted. */
  get messageId(): string {
    return this.#transcript.accepted?.messageId ?? "";
  }

  /** The cursor: to resume the reply after it goes on from here. */
  get sequence(): number {
    return this.#transcript.sequence;
  }

  /** The answer as far as it has been read. */
  get text(): string {
    return this.#transcript.text;
  }

  /** The tool calls as far as they have been read, each with its arguments joined. */
  get toolCalls(): readonly ToolCall[] {
    return this.#transcript.toolCalls;
  }

  /** The end, once it has been read. */
  get finished(): Finished | undefined {
    return this.#transcript.finished;
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  next(): Promise<IteratorResult<ReplyEvent, undefined>> {
    return this.#events.next();
  }

  /** What leaving a `for await` calls. */
  return(): Promise<IteratorResult<ReplyEvent, undefined>> {
    this.close();
    return this.#events.return(undefined);
  }

  /** Ends the call, not the reply. The iterator then ends without an error, for one who waits for it too. */
  close(): void {
    this.#signal?.removeEventListener("abort", this.#onAbort);
    this.#left.abort();
    this.#hangUp();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.return();
  }

  /**
   * Stops the reply on the server; the stream then ends with `finished`, its partial text kept.
   *
   * Returns the reply as it was stopped; undefined where the server has not seen the request yet, and will accept it as
   * already cancelled.
   */
  async cancel(
    reason = "",
    { signal }: { signal?: AbortSignal | undefined } = {},
  ): Promise<Reply | undefined> {
    const replyId = this.replyId;
    const request = create(CancelRequestSchema, {
      reason,
      target: replyId ? { case: "replyId", value: replyId } : { case: "requestId", value: this.requestId },
    });
    try {
      return await this.#connection.unary(Chat.method.cancel, request, { signal });
    } catch (error) {
      if (error instanceof NotFound && !replyId) return undefined;
      throw error;
    }
  }

  async *#run(): AsyncGenerator<ReplyEvent, undefined, undefined> {
    const signal = this.#signal;
    if (signal?.aborted) this.#onAbort();
    else if (!this.#left.signal.aborted) signal?.addEventListener("abort", this.#onAbort);
    try {
      while (!this.#left.signal.aborted && !this.#transcript.ended) {
        const event = await this.#step();
        if (event) yield event;
      }
      if (this.#transcript.ended) await this.#farewell();
      else if (this.#aborted) throw signal?.reason;
      if (this.#transcript.failure) throw this.#transcript.failure;
      return undefined;
    } finally {
      this.close();
    }
  }

  async #step(): Promise<ReplyEvent | undefined> {
    try {
      if (this.#pauseMs > 0) await this.#connection.wire.pause(this.#pauseMs, this.#left.signal);
      this.#pauseMs = 0;
      if (this.#left.signal.aborted) return undefined;
      this.#call ??= this.#attach();
      const chunk = await this.#call.read(this.#connection.settings.silenceMs);
      if (this.#left.signal.aborted) return undefined;
      if (chunk) return this.#apply(chunk);
      throw unavailable("the stream ended without the reply's end");
    } catch (error) {
      if (this.#left.signal.aborted) return undefined;
      this.#connection.wire.check();
      if (error instanceof ParleyError) return this.#cut(error);
      throw error;
    }
  }

  #attach(): Call<DescMessage, typeof TokenChunkSchema> {
    const { attemptTimeoutMs } = this.#connection.settings;
    const { replyId, sequence: afterSequence } = this;
    this.#patience.tries();
    if (this.#request && !replyId) {
      return this.#connection.start(Chat.method.streamReply, this.#request, attemptTimeoutMs);
    }
    const resume = { replyId, afterSequence, streamOptions: this.#options };
    return this.#connection.start(Chat.method.resumeReply, resume, attemptTimeoutMs);
  }

  #apply(chunk: TokenChunk): ReplyEvent | undefined {
    const before = this.sequence;
    const event = this.#transcript.apply(chunk);
    // An `accepted` of a resume is no progress: a server that cuts right after it must not be asked for ever.
    if (this.sequence > before || event?.type === "accepted" || chunk.event.case === "heartbeat") {
      this.#patience.progressed();
    }
    return event;
  }

  #cut(error: ParleyError): ReplyEvent {
    this.#hangUp();
    const again = this.#mayAttachAgain(error);
    const { reached } = this.#connection.wire.reach;
    const delayMs = again ? this.#patience.failed(error.retryAfterMs, reached) : undefined;
    if (delayMs !== undefined) {
      this.#pauseMs = delayMs;
      return { type: "reconnecting", attempt: this.#patience.attempts, delayMs, error };
    }
    if (!again || !this.#transcript.accepted) throw error;
    const { reason, code, message } = error;
    const { replyId, sequence, text } = this;
    throw new ConnectionLost(message, {
      reason,
      code,
      retryable: true,
      cause: error,
      replyId,
      sequence,
      text,
    });
  }

  #mayAttachAgain(error: ParleyError): boolean {
    if (isCut(error) || (error.code === "DEADLINE_EXCEEDED" && error.reason === "")) return true;
    // After acceptance, what says that the reply failed is not its end: that is the terminal chunk, still to be had.
    // And the reader that was cut off may count as one of the reply's readers until its server has noticed.
    return this.#transcript.accepted !== undefined && (endsReply(error) || error instanceof TooManyReaders);
  }

  /** The status repeats what the terminal chunk said; waiting for it spares the server a cancellation. */
  async #farewell(): Promise<void> {
    try {
      while (await this.#call?.read(FAREWELL_MS));
    } catch {
      // Whatever it is, the terminal chunk has said how the reply ended.
    }
  }

  readonly #onAbort = (): void => {
    this.#aborted = true;
    this.close();
  };

  #hangUp(): void {
    this.#call?.cancel();
    this.#call = undefined;
  }
}
