/** Runs the commands from standard input on the client; ../../../tests/conformance/PLAYER.md has the protocol. */

import { readdirSync, readlinkSync } from "node:fs";
import { createInterface } from "node:readline";
import { setImmediate } from "node:timers/promises";
import { fromJson, toJson, type DescMessage, type JsonValue, type MessageShape } from "@bufbuild/protobuf";
import {
  Client,
  ConnectionLost,
  ParleyError,
  ReplyFailed,
  type CancelTarget,
  type ConversationField,
  type ReplyEvent,
  type ReplyStream,
  type UsageOptions,
} from "@parley/client";
import {
  ConversationSchema,
  GetStatusResponseSchema,
  ImageSchema,
  ListMessagesResponseSchema,
  MessageSchema,
  ModelSchema,
  PollReplyResponseSchema,
  ProviderKeySchema,
  QuotaSchema,
  ReplyRequestSchema,
  ReplySchema,
  UsageRowSchema,
  UsageSchema,
} from "@parley/client/v1";

interface Command {
  id: string;
  op: string;
  name: string;
  address: string;
  api_key?: string | (string | null)[];
  of?: string;
  end_user?: string;
  backoff?: { first_s?: number; max_s?: number; max_elapsed_s?: number };
  call_timeout_s?: number;
  silence_s?: number;
  attempt_timeout_s?: number;
  client: string;
  request: JsonValue;
  pull?: boolean;
  reply_id: string;
  request_id?: string;
  conversation_id: string;
  after_sequence?: number;
  reasoning?: boolean;
  heartbeat_s?: number;
  wait_s?: number;
  gather_s?: number;
  stream: string;
  count: number;
  how: string;
  reason?: string;
  conversation?: JsonValue;
  messages?: JsonValue[];
  query?: string;
  labels?: Record<string, string>;
  page_size?: number;
  fields?: string[];
  etag?: string;
  leaf_message_id?: string;
  all_branches?: boolean;
  image_id: string;
  provider: string;
  tenant?: string;
  verify?: boolean;
  group_by?: string[];
  model?: string;
}

type Json = Record<string, unknown>;
type Handler = (command: Command) => void | Promise<void>;

/** A stream and its reader. */
class Playing {
  abandoned = false;
  #ended = false;
  #reading = false;

  constructor(
    readonly id: string,
    readonly stream: ReplyStream,
    readonly controller: AbortController,
  ) {}

  async take(count: number): Promise<void> {
    this.#reading = true;
    try {
      for (let taken = 0; taken < count && !this.#ended; taken++) {
        const { done, value } = await this.stream.next();
        if (done) this.end();
        else this.say({ ...eventOf(value), sequence: this.stream.sequence });
      }
    } catch (error) {
      if (this.abandoned) this.end();
      else this.fail(error);
    }
    this.#reading = false;
  }

  async abandon(id: string, how: string): Promise<void> {
    this.abandoned = true;
    const gone = WAYS[how]?.(this);
    if (!gone) throw new Unreadable(`no such way: ${how}`);
    say({ id, event: "abandoned" });
    await gone;
    if (!this.#reading) this.end();
  }

  end(): void {
    if (!this.#ended) this.say({ event: "end", ...this.known() });
    this.#ended = true;
  }

  fail(error: unknown): void {
    if (!this.#ended) this.say({ event: "error", ...errorOf(error), stream: this.known() });
    this.#ended = true;
  }

  known(): Json {
    const { requestId, replyId, conversationId, messageId, sequence, text, toolCalls } = this.stream;
    return {
      request_id: requestId,
      reply_id: replyId,
      conversation_id: conversationId,
      message_id: messageId,
      sequence,
      text,
      tool_calls: toolCalls.map(({ id, ...call }) => ({ ...call, call_id: id })),
    };
  }

  say(fields: Json): void {
    say({ id: this.id, ...fields });
  }
}

class Unreadable extends Error {}

const WAYS: Partial<Record<string, (playing: Playing) => Promise<unknown>>> = {
  // The same as a `for await` loop whose body breaks, returns or throws.
  break: ({ stream }) => stream.return(),
  abort: async ({ controller }) => controller.abort(),
  close: async ({ stream }) => stream.close(),
  dispose: ({ stream }) => stream[Symbol.asyncDispose](),
};

const clients = new Map<string, Client>();
const streams = new Map<string, Playing>();
const running = new Set<Promise<void>>();

const HANDLERS: Partial<Record<string, Handler>> = {
  client: (command) => {
    const { id, name, address, of, api_key: apiKey, end_user: endUser, backoff = {} } = command;
    const shared = of === undefined ? undefined : clients.get(of)?.actingFor(endUser ?? "");
    clients.set(
      name,
      shared ??
        new Client(address, {
          apiKey: Array.isArray(apiKey) ? inTurn(apiKey) : apiKey,
          endUser,
          backoff: {
            ...(backoff.first_s !== undefined && { firstMs: backoff.first_s * 1e3 }),
            ...(backoff.max_s !== undefined && { maxMs: backoff.max_s * 1e3 }),
            ...(backoff.max_elapsed_s !== undefined && { maxElapsedMs: backoff.max_elapsed_s * 1e3 }),
          },
          callTimeoutMs: ms(command.call_timeout_s),
          silenceMs: ms(command.silence_s),
          attemptTimeoutMs: ms(command.attempt_timeout_s),
        }),
    );
    say({ id, event: "ready" });
  },
  close_client: ({ id, name }) => {
    clients.get(name)?.close();
    clients.delete(name);
    say({ id, event: "closed" });
  },
  stream: (command) => {
    const request = fromJson(ReplyRequestSchema, command.request);
    return play(command, (client, signal) => client.streamReply(request, { signal }));
  },
  resume: (command) =>
    play(command, (client, signal) =>
      client.resume(command.reply_id, {
        afterSequence: command.after_sequence,
        reasoning: command.reasoning,
        heartbeatMs: ms(command.heartbeat_s),
        signal,
      }),
    ),
  next: async ({ id, stream, count }) => {
    await playing(stream).take(count);
    say({ id, event: "taken" });
  },
  abandon: ({ id, stream, how }) => playing(stream).abandon(id, how),
  ways: ({ id }) => result(id, Object.keys(WAYS)),
  stop: async ({ id, stream, reason }) => {
    const reply = await playing(stream).stream.cancel(reason);
    result(id, reply ? json(ReplySchema, reply) : null);
  },
  create: async (command) => {
    const request = fromJson(ReplyRequestSchema, command.request);
    const reply = await clientOf(command).createReply(request, { waitMs: ms(command.wait_s) });
    result(command.id, json(ReplySchema, reply));
  },
  poll: async (command) => {
    const answer = await clientOf(command).poll(command.reply_id, pollOptions(command));
    result(command.id, json(PollReplyResponseSchema, answer));
  },
  polls: (command) =>
    items(
      command.id,
      PollReplyResponseSchema,
      clientOf(command).polls(command.reply_id, pollOptions(command)),
    ),
  get_reply: async (command) => {
    result(command.id, json(ReplySchema, await clientOf(command).getReply(command.reply_id)));
  },
  cancel: async (command) => {
    const { reply_id: replyId, request_id: requestId, conversation_id: conversationId, reason } = command;
    // A case may set two on purpose, which the type does not allow.
    const target: unknown = { replyId, requestId, conversationId };
    result(command.id, json(ReplySchema, await clientOf(command).cancel(target as CancelTarget, { reason })));
  },
  models: async (command) => {
    const models = await clientOf(command).models();
    result(
      command.id,
      models.map((model) => json(ModelSchema, model)),
    );
  },
  quotas: async (command) => {
    const quotas = await clientOf(command).quotas();
    result(
      command.id,
      quotas.map((quota) => json(QuotaSchema, quota)),
    );
  },
  "admin.set_provider_key": async (command) => {
    const { provider, api_key: apiKey, tenant, verify } = command;
    const stored = await clientOf(command).admin.setProviderKey(provider, String(apiKey), { tenant, verify });
    result(command.id, json(ProviderKeySchema, stored));
  },
  "admin.provider_keys": (command) =>
    items(command.id, ProviderKeySchema, clientOf(command).admin.providerKeys()),
  "admin.delete_provider_key": async (command) => {
    await clientOf(command).admin.deleteProviderKey(command.provider, { tenant: command.tenant });
    result(command.id, null);
  },
  "admin.usage": (command) => {
    const { tenant, end_user: endUser, model, page_size: pageSize } = command;
    const groupBy = command.group_by?.map(camel) as UsageOptions["groupBy"];
    const found = clientOf(command).admin.usage({ groupBy, tenant, endUser, model, pageSize });
    return items(command.id, UsageRowSchema, found);
  },
  "admin.status": async (command) => {
    result(command.id, json(GetStatusResponseSchema, await clientOf(command).admin.status()));
  },
  "conversations.create": async (command) => {
    const made = await clientOf(command).conversations.create(
      fromJson(ConversationSchema, command.conversation ?? {}),
      {
        messages: command.messages?.map((message) => fromJson(MessageSchema, message)),
        requestId: command.request_id,
      },
    );
    result(command.id, json(ConversationSchema, made));
  },
  "conversations.get": async (command) => {
    const found = await clientOf(command).conversations.get(command.conversation_id);
    result(command.id, json(ConversationSchema, found));
  },
  "conversations.list": (command) => {
    const { query, labels, page_size: pageSize } = command;
    const found = clientOf(command).conversations.list({ query, labels, pageSize });
    return items(command.id, ConversationSchema, found);
  },
  "conversations.update": async (command) => {
    const changed = await clientOf(command).conversations.update(
      fromJson(ConversationSchema, command.conversation ?? {}),
      { fields: command.fields?.map(camel) as ConversationField[] | undefined },
    );
    result(command.id, json(ConversationSchema, changed));
  },
  "conversations.delete": async (command) => {
    await clientOf(command).conversations.delete(command.conversation_id, { etag: command.etag });
    result(command.id, null);
  },
  "conversations.messages": (command) => {
    const found = clientOf(command).conversations.messages(command.conversation_id, {
      leafMessageId: command.leaf_message_id,
      allBranches: command.all_branches,
      pageSize: command.page_size,
    });
    return items(command.id, MessageSchema, found);
  },
  "conversations.message_pages": (command) => {
    const found = clientOf(command).conversations.messagePages(command.conversation_id, {
      leafMessageId: command.leaf_message_id,
      allBranches: command.all_branches,
      pageSize: command.page_size,
    });
    return items(command.id, ListMessagesResponseSchema, found);
  },
  "conversations.image": async (command) => {
    result(command.id, json(ImageSchema, await clientOf(command).conversations.image(command.image_id)));
  },
  many: async (command) => {
    const outcome = { finished: 0, failed: 0, texts: {} as Record<string, number> };
    const client = clientOf(command);
    const one = async (): Promise<void> => {
      const request = fromJson(ReplyRequestSchema, command.request);
      request.requestId = "";
      try {
        for await (const event of client.streamReply(request)) {
          if (event.type !== "finished") continue;
          outcome.finished += 1;
          outcome.texts[event.text] = (outcome.texts[event.text] ?? 0) + 1;
        }
      } catch (error) {
        if (!(error instanceof ParleyError)) throw error;
        outcome.failed += 1;
      }
    };
    await Promise.all(Array.from({ length: command.count }, one));
    result(command.id, outcome);
  },
  stats: async ({ id }) => {
    await setImmediate(); // releases what has just ended
    global.gc?.();
    const { rss, heapUsed } = process.memoryUsage();
    result(id, { rss_bytes: rss, heap_bytes: heapUsed, open: openBeyondIdle() });
  },
};

/** A function that returns these one after the other, and the last one again and again; for null it fails. */
function inTurn(credentials: (string | null)[]): () => Promise<string> {
  const left = [...credentials];
  return async () => {
    const credential = left.length > 1 ? left.shift() : left[0];
    if (credential == null) throw new RangeError("no credential");
    return credential;
  };
}

function play(
  { id, client, pull }: Command,
  open: (client: Client, signal: AbortSignal) => ReplyStream,
): Promise<void> {
  const controller = new AbortController();
  const opened = new Playing(id, open(clientOf({ client }), controller.signal), controller);
  streams.set(id, opened);
  return pull ? Promise.resolve() : opened.take(Infinity);
}

function playing(id: string): Playing {
  const found = streams.get(id);
  if (!found) throw new Unreadable(`no such stream: ${id}`);
  return found;
}

function clientOf({ client }: { client: string }): Client {
  const found = clients.get(client);
  if (!found) throw new Unreadable(`no such client: ${client}`);
  return found;
}

async function items<T extends DescMessage>(
  id: string,
  schema: T,
  found: AsyncIterable<MessageShape<T>>,
): Promise<void> {
  for await (const item of found) say({ id, event: "item", value: json(schema, item) });
  say({ id, event: "end" });
}

function eventOf(event: ReplyEvent): Json {
  switch (event.type) {
    case "accepted":
      return {
        event: "accepted",
        reply_id: event.replyId,
        conversation_id: event.conversationId,
        message_id: event.messageId,
        input_message_ids: event.inputMessageIds,
        model: event.model,
        replayed: event.replayed,
        ignored_settings: event.ignoredSettings,
        quota: event.quota ? json(QuotaSchema, event.quota) : null,
      };
    case "text":
    case "reasoning":
      return { event: event.type, text: event.text };
    case "toolCall": {
      const { index, id, name, arguments: piece } = event;
      return { event: "tool_call", index, call_id: id, name, arguments: piece };
    }
    case "usage":
      return { event: "usage", usage: json(UsageSchema, event.usage) };
    case "snapshot":
      return { event: "snapshot", text: event.text, reply: json(ReplySchema, event.reply) };
    case "reconnecting": {
      const { attempt, delayMs, error } = event;
      return { event: "reconnecting", attempt, delay_s: delayMs / 1e3, error: errorOf(error) };
    }
    case "finished": {
      const { reason, text, model, provider, cancelReason, usage } = event;
      return {
        event: "finished",
        reason,
        text,
        model,
        provider,
        cancel_reason: cancelReason,
        usage: json(UsageSchema, usage),
      };
    }
  }
}

function errorOf(error: unknown): Json {
  if (error instanceof TypeError) return { kind: "Usage", message: error.message };
  if (!(error instanceof ParleyError)) throw error;
  const { name: kind, reason, code, message, retryable, retryAfterMs, metadata } = error;
  const retryAfterS = retryAfterMs === undefined ? null : retryAfterMs / 1e3;
  const common = { kind, reason, code, message, retryable, retry_after_s: retryAfterS, metadata };
  if (error instanceof ReplyFailed) {
    const { text, replyId, messageId, usage, model, provider } = error;
    return {
      ...common,
      text,
      reply_id: replyId,
      message_id: messageId,
      usage: usage ? json(UsageSchema, usage) : {},
      model,
      provider,
    };
  }
  if (error instanceof ConnectionLost) {
    return { ...common, reply_id: error.replyId, sequence: error.sequence, text: error.text };
  }
  return common;
}

/** Open sockets, and timers and handles by Node's names. */
function openNow(): Record<string, number> {
  const open: Record<string, number> = { sockets: 0 };
  for (const fd of readdirSync("/proc/self/fd")) if (isSocket(fd)) open["sockets"]! += 1;
  for (const kind of process.getActiveResourcesInfo()) open[kind] = (open[kind] ?? 0) + 1;
  return open;
}

function isSocket(fd: string): boolean {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`).startsWith("socket:");
  } catch {
    return false; // the descriptor that lists the folder
  }
}

function openBeyondIdle(): Record<string, number> {
  const beyond: Record<string, number> = { sockets: 0 };
  for (const [kind, count] of Object.entries(openNow())) {
    const more = count - (IDLE[kind] ?? 0);
    if (more > 0) beyond[kind] = more;
  }
  return beyond;
}

function json<T extends DescMessage>(schema: T, message: MessageShape<T>): JsonValue {
  return toJson(schema, message, { useProtoFieldName: true });
}

function pollOptions(command: Command) {
  return {
    afterSequence: command.after_sequence,
    waitMs: ms(command.wait_s),
    gatherMs: ms(command.gather_s),
    reasoning: command.reasoning,
  };
}

function ms(seconds: number | undefined): number | undefined {
  return seconds === undefined ? undefined : seconds * 1e3;
}

function camel(name: string): string {
  return name.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase());
}

function say(event: Json): void {
  process.stdout.write(`${JSON.stringify(event)}\n`);
}

function result(id: string, value: unknown): void {
  say({ id, event: "result", value });
}

/** Runs a command concurrently. An error of the client is its answer; any other error ends the player. */
async function run(handler: Handler, command: Command): Promise<void> {
  try {
    await handler(command);
  } catch (error) {
    if (error instanceof Unreadable) unreadable(error.message);
    say({ id: command.id, event: "error", ...errorOf(error) });
  }
}

function unreadable(what: string): never {
  process.stderr.write(`${what}\n`);
  process.exit(2);
}

function parse(line: string): Command {
  try {
    return JSON.parse(line) as Command;
  } catch {
    return unreadable(`no JSON: ${line}`);
  }
}

// Starts to read here, so that no line is lost before the loop below starts.
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
process.stdout.write(""); // opens it now, so that it does not count as opened by the client
await setImmediate();
const IDLE = openNow();
for await (const line of lines) {
  if (!line.trim()) continue;
  const command = parse(line);
  if (command.op === "exit") break;
  const handler = HANDLERS[command.op];
  if (!handler) unreadable(`no such command: ${command.op}`);
  const done: Promise<void> = run(handler, command).finally(() => running.delete(done));
  running.add(done);
}
for (const { stream } of streams.values()) stream.close();
for (const client of clients.values()) client.close();
await Promise.all(running);
process.stdin.destroy();
