/** The client of one server for one caller. */

import { create } from "@bufbuild/protobuf";
import { Admin } from "./admin.js";
import { Connection, type CallOptions } from "./connection.js";
import { Conversations } from "./conversations.js";
import { duration, oneOf } from "./convert.js";
import type { ReplyFields } from "./fields.js";
import { Catalog } from "./gen/parley/v1/catalog_pb.js";
import {
  CancelRequestSchema,
  Chat,
  type PollReplyResponse,
  type ReplyRequest,
} from "./gen/parley/v1/chat_pb.js";
import type { Model, Quota, Reply } from "./gen/parley/v1/resources_pb.js";
import { buildRequest, streamOptions } from "./request.js";
import { settingsOf, type ClientOptions } from "./settings.js";
import { ReplyStream } from "./stream.js";
import { Transcript } from "./transcript.js";
import { Wire } from "./wire.js";

// Time limit of a call that waits on the server, in addition to its wait.
const ANSWER_MS = 15_000;
const POLL_WAIT_MS = 20_000;

export interface ResumeOptions extends CallOptions {
  /** The cursor: `sequence` of the stream that was read before. 0, the default, is the start. */
  afterSequence?: number | undefined;
  reasoning?: boolean | undefined;
  heartbeatMs?: number | undefined;
}

export interface PollOptions extends CallOptions {
  afterSequence?: number | undefined;
  /** Longest wait for a first chunk. By default 20,000. */
  waitMs?: number | undefined;
  /** Longest wait for more chunks after it. */
  gatherMs?: number | undefined;
  reasoning?: boolean | undefined;
}

/** The reply to cancel: exactly one of the three. */
export type CancelTarget =
  | { replyId: string; requestId?: undefined; conversationId?: undefined }
  | { requestId: string; replyId?: undefined; conversationId?: undefined }
  | { conversationId: string; replyId?: undefined; requestId?: undefined };

/** Client of a Parley server. It connects at its first call. Call `close` when done, or declare it with `using`. */
export class Client implements Disposable {
  readonly conversations: Conversations;
  readonly admin: Admin;
  private readonly connection: Connection;

  constructor(address?: string, options?: ClientOptions);
  /** @internal */
  constructor(connection: Connection);
  constructor(server: string | Connection = "127.0.0.1:50051", options: ClientOptions = {}) {
    this.connection = typeof server === "string" ? connect(server, options) : server;
    this.conversations = new Conversations(this.connection);
    this.admin = new Admin(this.connection);
  }

  /**
   * Returns a client for another end user that shares this client's connection. It is cheap enough to call for each
   * request of a web application. Closing one client closes both.
   */
  actingFor(endUser: string): Client {
    return new Client(this.connection.actingFor(endUser));
  }

  /** Ends all calls with `Unavailable` and closes the connection. Running replies continue on the server. */
  close(): void {
    this.connection.wire.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /**
   * Returns a stream that starts a reply when it is first read. The client makes a `requestId` if none is given. With
   * the `requestId` of an earlier request the stream reads the reply that this request started.
   */
  streamReply(message: string | ReplyFields | ReplyRequest, { signal }: CallOptions = {}): ReplyStream {
    const request = buildRequest(message);
    const { streamOptions: asked = streamOptions({}) } = request;
    return new ReplyStream(this.connection, new Transcript(), request, asked, signal);
  }

  /**
   * Returns a stream of a running or finished reply, from the chunk after `afterSequence`. The `text` of the stream and
   * of its events does not contain the text up to `afterSequence`.
   */
  resume(replyId: string, { afterSequence = 0, signal, ...options }: ResumeOptions = {}): ReplyStream {
    const transcript = new Transcript(replyId, afterSequence);
    return new ReplyStream(this.connection, transcript, undefined, streamOptions(options), signal);
  }

  /**
   * Starts a reply, waits for its end for at most `waitMs` (0: does not wait), and returns its current state. A failed
   * reply is returned, not thrown: see its `state` and `error`.
   */
  createReply(
    message: string | ReplyFields | ReplyRequest,
    { waitMs, signal }: CallOptions & { waitMs?: number | undefined } = {},
  ): Promise<Reply> {
    const request = buildRequest(message);
    const wait = waitMs === undefined ? request.wait : duration(waitMs);
    if (!wait) return this.connection.unary(Chat.method.createReply, request, { timeoutMs: 0, signal });
    const limitMs = waitMs ?? Number(wait.seconds) * 1_000 + wait.nanos / 1e6;
    const endMs = performance.now() + limitMs;
    // Each attempt waits only for the remaining time. The server ignores `wait` when it compares requests.
    const attempt = () => ({ ...request, wait: duration(Math.max(0, endMs - performance.now())) });
    return this.connection.unary(Chat.method.createReply, attempt, {
      timeoutMs: limitMs + ANSWER_MS,
      signal,
    });
  }

  /**
   * Returns the chunks after `afterSequence`; waits up to `waitMs` for the first. The response's `afterSequence` is the
   * cursor for the next poll.
   */
  poll(replyId: string, options: PollOptions = {}): Promise<PollReplyResponse> {
    const { afterSequence = 0, waitMs = POLL_WAIT_MS, gatherMs, reasoning = false, signal } = options;
    const request = { replyId, afterSequence, wait: duration(waitMs), gather: duration(gatherMs), reasoning };
    return this.connection.unary(Chat.method.pollReply, request, { timeoutMs: waitMs + ANSWER_MS, signal });
  }

  /** Polls until the terminal chunk and yields each response, including empty ones. */
  async *polls(
    replyId: string,
    options: PollOptions = {},
  ): AsyncGenerator<PollReplyResponse, void, undefined> {
    let afterSequence = options.afterSequence ?? 0;
    for (;;) {
      const answer = await this.poll(replyId, { ...options, afterSequence });
      afterSequence = answer.afterSequence;
      yield answer;
      if (answer.chunks.some(({ event }) => event.case === "finished" || event.case === "failed")) return;
    }
  }

  /**
   * Cancels a reply and returns it with its partial text. Throws `ReplyNotFound` for a `requestId` that the server has
   * not received yet; it will then accept the request as cancelled.
   */
  async cancel(
    target: CancelTarget,
    { reason = "", signal }: CallOptions & { reason?: string | undefined } = {},
  ): Promise<Reply> {
    const named = oneOf(target);
    if (!named.case) throw new TypeError("name one of replyId, requestId and conversationId");
    const request = create(CancelRequestSchema, { reason, target: named });
    return await this.connection.unary(Chat.method.cancel, request, { signal });
  }

  /** Returns the current state of the reply. */
  async getReply(replyId: string, { signal }: CallOptions = {}): Promise<Reply> {
    const request = { replyId };
    return await this.connection.unary(Chat.method.getReply, request, { signal });
  }

  /** Returns the models that the caller may use. */
  async models({ signal }: CallOptions = {}): Promise<Model[]> {
    const request = {};
    return (await this.connection.unary(Catalog.method.listModels, request, { signal })).models;
  }

  /** Returns the caller's limits and their current use. */
  async quotas({ signal }: CallOptions = {}): Promise<Quota[]> {
    const request = {};
    return (await this.connection.unary(Catalog.method.getQuota, request, { signal })).quotas;
  }
}

function connect(address: string, options: ClientOptions): Connection {
  const wire = new Wire(address, options.tls ?? false, options.channelOptions ?? {});
  return new Connection(wire, settingsOf(options));
}
