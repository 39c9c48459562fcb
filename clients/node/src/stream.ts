/**
 * The events of one reply as an iterator that reconnects after cuts.
 *
 * It reads from the network only when the next event is requested, so that a slow reader needs little memory in the
 * client.
 */

import type { Metadata } from "@grpc/grpc-js";
import { create, type DescMessage } from "@bufbuild/protobuf";
import { Patience } from "./backoff.js";
import type { Call } from "./call.js";
import type { Connection } from "./connection.js";
import { ConnectionLost, CredentialFailed, NotFound, ParleyError, TooManyReaders } from "./errors.js";
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
import { endsReply, mayRetry, unavailable } from "./status.js";
import type { Transcript } from "./transcript.js";

// How long to wait for the status of a call after its terminal chunk.
const STATUS_WAIT_MS = 1_000;

/**
 * An async iterator over the events of one reply, for one reader.
 *
 * After a cut it reconnects with the client's backoff. It ends after `finished`. It throws `ReplyFailed` (with the
 * partial text) if the reply failed, `ConnectionLost` if it could not reconnect after the reply was accepted, the
 * signal's reason if the signal was aborted, or another ParleyError if the request was refused. Leaving the loop
 * (`break`, `return`, `throw`), `close` and the signal end the call at once; the request's `onDisconnect` decides
 * whether the reply continues. The first `next` starts the call.
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
  /** True if the signal was aborted: `next` rejects with its reason. */
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

  /** The idempotency key of the request; empty for a stream from `resume`. */
  get requestId(): string {
    return this.#request?.requestId ?? "";
  }

  /** Empty until the reply is accepted. */
  get replyId(): string {
    return this.#transcript.replyId;
  }

  /** The reply's conversation; for a new conversation empty until the reply is accepted. */
  get conversationId(): string {
    return this.#transcript.accepted?.conversationId ?? this.#request?.conversationId ?? "";
  }

  /** The message for the answer; empty until the reply is accepted. */
  get messageId(): string {
    return this.#transcript.accepted?.messageId ?? "";
  }

  /** The cursor: the sequence of the last chunk that was read. */
  get sequence(): number {
    return this.#transcript.sequence;
  }

  /** The text that was read so far. */
  get text(): string {
    return this.#transcript.text;
  }

  /** The tool calls that were read so far, each with its joined arguments. */
  get toolCalls(): readonly ToolCall[] {
    return this.#transcript.toolCalls;
  }

  /** The last event, once it was read. */
  get finished(): Finished | undefined {
    return this.#transcript.finished;
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  next(): Promise<IteratorResult<ReplyEvent, undefined>> {
    return this.#events.next();
  }

  /** Called when a `for await` loop is left. */
  return(): Promise<IteratorResult<ReplyEvent, undefined>> {
    this.close();
    return this.#events.return(undefined);
  }

  /** Ends the call, not the reply. The iterator then ends without an error; a waiting `next` resolves. */
  close(): void {
    this.#signal?.removeEventListener("abort", this.#onAbort);
    this.#left.abort();
    this.#hangUp();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.return();
  }

  /**
   * Cancels the reply on the server. The stream then ends with `finished`; the partial text is stored.
   *
   * Returns the cancelled reply, or undefined if the server has not received the request yet; it will then accept the
   * request as cancelled.
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
      if (this.#transcript.ended) await this.#awaitStatus();
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
      if (!this.#call) {
        const metadata = await this.#connection.metadata(this.#left.signal);
        if (this.#left.signal.aborted) return undefined;
        this.#call = this.#attach(metadata);
      }
      const chunk = await this.#call.read(this.#connection.settings.silenceMs);
      if (this.#left.signal.aborted) return undefined;
      if (chunk) return this.#apply(chunk);
      throw unavailable("the stream ended before the end of the reply");
    } catch (error) {
      if (this.#left.signal.aborted) return undefined;
      this.#connection.wire.check();
      if (error instanceof ParleyError) return this.#cut(error);
      throw error;
    }
  }

  #attach(metadata: Metadata): Call<DescMessage, typeof TokenChunkSchema> {
    const { attemptTimeoutMs } = this.#connection.settings;
    const { replyId, sequence: afterSequence } = this;
    this.#patience.tries();
    if (this.#request && !replyId) {
      return this.#connection.start(Chat.method.streamReply, this.#request, metadata, attemptTimeoutMs);
    }
    const resume = { replyId, afterSequence, streamOptions: this.#options };
    return this.#connection.start(Chat.method.resumeReply, resume, metadata, attemptTimeoutMs);
  }

  #apply(chunk: TokenChunk): ReplyEvent | undefined {
    const before = this.sequence;
    const event = this.#transcript.apply(chunk);
    // A repeated `accepted` is not progress: a server that always cuts after it would be retried forever.
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
    if (mayRetry(error) || (error.code === "DEADLINE_EXCEEDED" && error.reason === "")) return true;
    // After acceptance, a status that reports a failed reply was sent instead of the terminal chunk, which a new call
    // reads. TooManyReaders may count the reader that was cut off, until its server has noticed the cut. A credential
    // may be available again soon. A proxy that limits its load ends streams with RESOURCE_EXHAUSTED; before acceptance,
    // this may also be a request that is too large.
    const limited = error.code === "RESOURCE_EXHAUSTED" && error.reason === "";
    const again =
      endsReply(error) || limited || error instanceof TooManyReaders || error instanceof CredentialFailed;
    return this.#transcript.accepted !== undefined && again;
  }

  /** Waits for the status of the call, so that the server does not see a cancelled call. */
  async #awaitStatus(): Promise<void> {
    try {
      while (await this.#call?.read(STATUS_WAIT_MS));
    } catch {
      // The terminal chunk already had the end of the reply.
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
