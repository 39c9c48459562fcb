/** A gRPC server with scripted answers (cut logs, refusals, silence), and a proxy in front of it. */

import { once } from "node:events";
import { setImmediate } from "node:timers/promises";
import {
  Metadata,
  Server,
  ServerCredentials,
  status,
  type ServerUnaryCall,
  type ServerWritableStream,
  type ServiceDefinition,
  type UntypedServiceImplementation,
  type sendUnaryData,
} from "@grpc/grpc-js";
import {
  create,
  fromBinary,
  toBinary,
  type DescMethod,
  type Message,
  type MessageInitShape,
} from "@bufbuild/protobuf";
import { durationFromMs } from "@bufbuild/protobuf/wkt";
import {
  Admin,
  Catalog,
  Chat,
  Conversations,
  ErrorReason,
  FinishReason,
  ReplyErrorSchema,
  TokenChunkSchema,
  type ReplyError,
  type ReplyRequest,
  type ResumeReplyRequest,
  type TokenChunk,
} from "../src/v1.js";
import type { Code } from "../src/index.js";
import { Proxy } from "./proxy.js";

type ChunkFields = MessageInitShape<typeof TokenChunkSchema>;

export function chunk(sequence: number, event: ChunkFields["event"], replyId = ""): TokenChunk {
  return create(TokenChunkSchema, { sequence, replyId, ...(event && { event }) });
}

/** The first chunk of every stream. */
export function accepted(sequence = 0): TokenChunk {
  const value = {
    conversationId: "conversation-1",
    messageId: "message-2",
    inputMessageIds: ["message-1"],
    model: "scripted",
    ignoredSettings: ["seed"],
  };
  return chunk(sequence, { case: "accepted", value }, "reply-1");
}

export function text(sequence: number, piece: string): TokenChunk {
  return chunk(sequence, { case: "text", value: piece });
}

/** Text chunks, numbered from 1. */
export function texts(...pieces: string[]): TokenChunk[] {
  return pieces.map((piece, i) => text(i + 1, piece));
}

export function finished(sequence: number, reason = FinishReason.STOP, cancelReason = ""): TokenChunk {
  const usage = { promptTokens: 3, completionTokens: 5 };
  const value = { reason, usage, model: "spare", provider: "typewriter", cancelReason };
  return chunk(sequence, { case: "finished", value });
}

export function failed(sequence: number, error: ReplyError): TokenChunk {
  const value = { error, usage: { promptTokens: 3 }, model: "spare", provider: "typewriter" };
  return chunk(sequence, { case: "failed", value });
}

export function snapshot(sequence: number, whole: string): TokenChunk {
  const message = { parts: [{ content: { case: "text" as const, value: whole } }] };
  return chunk(sequence, { case: "snapshot", value: { id: "reply-1", message } });
}

export function replyError(
  code: Code,
  reason: Exclude<keyof typeof ErrorReason, "UNSPECIFIED">,
  fields: { retryable?: boolean; retryAfterMs?: number; metadata?: Record<string, string> } = {},
): ReplyError {
  const { retryAfterMs, ...rest } = fields;
  return create(ReplyErrorSchema, {
    code: status[code],
    reason: ErrorReason[reason],
    message: "as scripted",
    ...(retryAfterMs !== undefined && { retryAfter: durationFromMs(retryAfterMs) }),
    ...rest,
  });
}

/** A step: end the call with this status, with or without Parley's trailer. */
export class Abort {
  constructor(
    readonly code: Code,
    readonly error?: ReplyError,
  ) {}
}

/** A status with the trailer of Parley. */
export function refusal(...args: Parameters<typeof replyError>): Abort {
  return new Abort(args[0], replyError(...args));
}

/** A step: send only the response headers. */
export const HEADERS = Symbol("headers");
/** A step: break the connection. */
export const BREAK = Symbol("break");
/** A step: end the stream with status OK. */
export const END = Symbol("end");
/** A step: continue once the promise is settled; `HANG` is never settled. */
export type Step = TokenChunk | Abort | Promise<void> | typeof HEADERS | typeof BREAK | typeof END;
export const HANG = new Promise<void>(() => {});

export interface Seen {
  readonly method: string;
  readonly request: Message;
  readonly metadata: Metadata;
  readonly cancelled: Promise<void>;
  isCancelled: boolean;
  /** Whether the server has ended it. */
  ended: boolean;
  written: number;
}

type Answer = MessageInitShape<DescMethod["output"]> | Abort;

/**
 * Answers each stream call with the next of `scripts`, or else from `log` with the next of `cuts` (a step after this many
 * chunks, including `accepted`). `unary` has the answers of unary calls by method, of which the last one is repeated, or a
 * function of the request.
 */
export class Scripted implements AsyncDisposable {
  readonly calls: Seen[] = [];
  readonly scripts: Step[][] = [];
  readonly cuts: { after: number; how: Step }[] = [];
  readonly unary: Partial<Record<string, Answer[] | ((request: Message) => Answer)>> = {};
  log: TokenChunk[] = [];
  readonly #server = new Server();

  private constructor() {
    for (const service of [Admin, Catalog, Chat, Conversations]) {
      const definition: Record<string, ServiceDefinition[string]> = {};
      const routes: UntypedServiceImplementation = {};
      for (const method of service.methods) {
        const responseStream = method.methodKind === "server_streaming";
        definition[method.name] = {
          path: `/${service.typeName}/${method.name}`,
          requestStream: false,
          responseStream,
          requestSerialize: (message: Message) => Buffer.from(toBinary(method.input, message)),
          requestDeserialize: (bytes) => fromBinary(method.input, bytes),
          responseSerialize: (message: Message) => Buffer.from(toBinary(method.output, message)),
          responseDeserialize: (bytes) => fromBinary(method.output, bytes),
        };
        routes[method.name] = responseStream
          ? (call: ServerWritableStream<Message, TokenChunk>) => void this.#stream(method.name, call)
          : (call: ServerUnaryCall<Message, Message>, done: sendUnaryData<Message>) =>
              this.#answer(method, call, done);
      }
      this.#server.addService(definition, routes);
    }
  }

  #port = 0;
  proxy!: Proxy;

  static async start(): Promise<Scripted> {
    const scripted = new Scripted();
    scripted.#port = await new Promise((resolve, reject) => {
      scripted.#server.bindAsync("127.0.0.1:0", ServerCredentials.createInsecure(), (error, port) => {
        if (error) reject(error);
        else resolve(port);
      });
    });
    scripted.proxy = await Proxy.to(scripted.#port);
    return scripted;
  }

  get address(): string {
    return this.proxy.address;
  }

  methods(): string[] {
    return this.calls.map(({ method }) => method);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.forceShutdown();
    await this.proxy[Symbol.asyncDispose]();
  }

  #record(
    method: string,
    call: ServerUnaryCall<Message, Message> | ServerWritableStream<Message, TokenChunk>,
  ): Seen {
    const seen: Seen = {
      method,
      request: call.request,
      metadata: call.metadata,
      cancelled: new Promise((resolve) => {
        // grpc-js reports every call as cancelled once it is closed.
        call.once("cancelled", () => {
          seen.isCancelled = !seen.ended;
          resolve();
        });
      }),
      isCancelled: false,
      ended: false,
      written: 0,
    };
    this.calls.push(seen);
    return seen;
  }

  #answer(method: DescMethod, call: ServerUnaryCall<Message, Message>, done: sendUnaryData<Message>): void {
    this.#record(method.name, call);
    const answers = this.unary[method.name];
    if (!answers) return done({ code: status.UNIMPLEMENTED });
    const answer =
      typeof answers === "function"
        ? answers(call.request)
        : answers.length > 1
          ? answers.shift()
          : answers[0];
    if (answer instanceof Abort) return done(statusOf(answer));
    done(null, create(method.output, answer));
  }

  async #stream(method: string, call: ServerWritableStream<Message, TokenChunk>): Promise<void> {
    const seen = this.#record(method, call);
    const after = method === "ResumeReply" ? (call.request as ResumeReplyRequest).afterSequence : 0;
    for (const step of this.scripts.shift() ?? this.#fromLog(after)) {
      if (seen.isCancelled) return;
      if (step instanceof Promise) await step;
      else if (step instanceof Abort) {
        seen.ended = true;
        return void call.emit("error", statusOf(step));
      } else if (step === HEADERS) call.sendMetadata(new Metadata());
      else if (step === END) break;
      else if (step === BREAK) {
        await setImmediate(); // what was written is on the wire
        return this.proxy.cut();
      } else {
        if (!call.write(step)) await Promise.race([once(call, "drain"), seen.cancelled]);
        seen.written += 1;
      }
    }
    seen.ended = true;
    call.end();
  }

  #fromLog(after: number): Step[] {
    const entries = this.log.filter(({ sequence }) => sequence > after);
    const steps: Step[] = [accepted(after), ...(entries.length > 0 ? entries : this.log.slice(-1))];
    const cut = this.cuts.shift();
    return cut && cut.after < steps.length ? [...steps.slice(0, cut.after), cut.how] : steps;
  }
}

function statusOf({ code, error }: Abort) {
  const metadata = new Metadata();
  if (error) metadata.set("parley-error-bin", Buffer.from(toBinary(ReplyErrorSchema, error)));
  return { code: status[code], details: error?.message ?? "bare", metadata };
}

export function requestOf(seen: Seen | undefined): ReplyRequest {
  return seen?.request as ReplyRequest;
}
