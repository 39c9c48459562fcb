/** The client: one object for one server and one caller. */

import { create } from "@bufbuild/protobuf";
import { Connection, type CallOptions } from "./connection.js";
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
import { Conversations } from "./conversations.js";
import { settingsOf, type ClientOptions } from "./settings.js";
import { ReplyStream } from "./stream.js";
import { Transcript } from "./transcript.js";
import { Wire } from "./wire.js";

// What a call that waits on the server may take beyond that wait.
const ANSWER_MS = 15_000;
const POLL_WAIT_MS = 20_000;

export interface ResumeOptions extends CallOptions {
  /** The sequence of the last event that the caller has; 0 is from the start. */
  afterSequence?: number | undefined;
  reasoning?: boolean | undefined;
  heartbeatMs?: number | undefined;
}

export interface PollOptions extends CallOptions {
  afterSequence?: number | undefined;
  /** Longest wait for something new; 20,000. */
  waitMs?: number | undefined;
  /** How long to gather more after it. */
  gatherMs?: number | undefined;
  reasoning?: boolean | undefined;
}

/** Which reply: exactly one of the three. */
export type CancelTarget =
  | { replyId: string; requestId?: undefined; conversationId?: undefined }
  | { requestId: string; replyId?: undefined; conversationId?: undefined }
  | { conversationId: string; replyId?: undefined; requestId?: undefined };

/** Calls a Parley server. It connects at its first call; `close` it, or declare it with `using`. */
export class Client implements Disposable {
  readonly conversations: Conversations;
  private readonly connection: Connection;

  constructor(address?: string, options?: ClientOptions);
  /** @internal */
  constructor(connection: Connection);
  constructor(server: string | Connection = "127.0.0.1:50051", options: ClientOptions = {}) {
    this.connection = typeof server === "string" ? connect(server, options) : server;
    this.conversations = new Conversations(this.connection);
  }

  /**
   * A client that acts for another end user over this one's connection: cheap enough for each request of a web
   * application. They are closed together.
   */
  actingFor(endUser: string): Client {
    return new Client(this.connection.actingFor(endUser));
  }

  /** Ends all calls, not the replies, and the connection. Who is waiting for one of them gets `Unavailable`. */
  close(): void {
    this.connection.wire.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /**
   * Starts a reply, at the first step of the stream that it returns. Without a `requestId` one is made; a repeated one
   * attaches to the reply that it started before.
   */
  streamReply(message: string | ReplyFields | ReplyRequest, { signal }: CallOptions = {}): ReplyStream {
    const request = buildRequest(message);
    const { streamOptions: asked = streamOptions({}) } = request;
    return new ReplyStream(this.connection, new Transcript(), request, asked, signal);
  }

  /**
   * Follows a reply, running or ended, from after an event that the caller has. The `text` of the stream and of its
   * events is what comes after `afterSequence`.
   */
  resume(replyId: string, { afterSequence = 0, signal, ...options }: ResumeOptions = {}): ReplyStream {
    const transcript = new Transcript(replyId, afterSequence);
    return new ReplyStream(this.connection, transcript, undefined, streamOptions(options), signal);
  }

  /**
   * Starts a reply and waits for its end, at most `waitMs` (0: not at all), then returns it as it stands. A reply that
   * failed is returned, not thrown: see its `state` and `error`.
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
    // Each attempt waits for what is left, so that attempts do not add up. The key is compared without it.
    const attempt = () => ({ ...request, wait: duration(Math.max(0, endMs - performance.now())) });
    return this.connection.unary(Chat.method.createReply, attempt, {
      timeoutMs: limitMs + ANSWER_MS,
      signal,
    });
  }

  /** What came after an event, waiting up to `waitMs` for a first one. Its `afterSequence` is the next cursor. */
  poll(replyId: string, options: PollOptions = {}): Promise<PollReplyResponse> {
    const { afterSequence = 0, waitMs = POLL_WAIT_MS, gatherMs, reasoning = false, signal } = options;
    const request = { replyId, afterSequence, wait: duration(waitMs), gather: duration(gatherMs), reasoning };
    return this.connection.unary(Chat.method.pollReply, request, { timeoutMs: waitMs + ANSWER_MS, signal });
  }

  /** Polls until the terminal chunk has come, and yields each answer, empty ones too. */
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
   * Stops a reply and returns it with what it had written. Throws `ReplyNotFound` for a `requestId` that the server does
   * not know yet: it will be accepted as cancelled.
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

  /** The reply as it stands now. */
  async getReply(replyId: string, { signal }: CallOptions = {}): Promise<Reply> {
    const request = { replyId };
    return await this.connection.unary(Chat.method.getReply, request, { signal });
  }

  /** The models that the caller may name. */
  async models({ signal }: CallOptions = {}): Promise<Model[]> {
    const request = {};
    return (await this.connection.unary(Catalog.method.listModels, request, { signal })).models;
  }

  /** The caller's limits and what is left of them. */
  async quotas({ signal }: CallOptions = {}): Promise<Quota[]> {
    const request = {};
    return (await this.connection.unary(Catalog.method.getQuota, request, { signal })).quotas;
  }
}

function connect(address: string, options: ClientOptions): Connection {
  const wire = new Wire(address, options.tls ?? false, options.channelOptions ?? {});
  return new Connection(wire, settingsOf(options));
}
