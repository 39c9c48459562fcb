/** The same small product on Express and on Fastify, on a free port. */

import { once } from "node:events";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import type { IncomingHttpHeaders, Server } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import express from "express";
import fastify from "fastify";
import * as onExpress from "../src/express.js";
import * as onFastify from "../src/fastify.js";
import { Client, type ClientOptions, type ReplyStream } from "../src/index.js";
import type { PageConfig, ReplyEnd, ReplyEvents, SendOptions } from "../src/express.js";

/** Events of a product without an event that replaces text. */
export const EVENTS: ReplyEvents = {
  accepted: ({ conversationId }) => ({ type: "start", conversationId }),
  text: ({ text }) => ({ type: "chunk", content: text }),
  finished: ({ reason }) => ({ type: "done", reason }),
  failed: ({ error, code, retryable }) => ({ type: "error", error, code, retryable }),
};

export const CONFIG: PageConfig = { wire: "chunks", login: "demo", images: false, title: "Test" };

/** A folder with a page, an asset, and files that nobody may read. */
export function builtPage(): string {
  const root = mkdtempSync(join(tmpdir(), "parley-page-"));
  mkdirSync(join(root, "page/assets"), { recursive: true });
  writeFileSync(join(root, "secret.txt"), "secret");
  writeFileSync(join(root, "page/.env"), "secret");
  writeFileSync(join(root, "page/index.html"), "<!doctype html><title>Chat</title>");
  writeFileSync(join(root, "page/assets/app-1a2b.js"), "export {};");
  writeFileSync(join(root, "page/favicon.svg"), "<svg/>");
  return join(root, "page");
}

/** The bearer token is the name of the user. */
function endUser({ headers }: { readonly headers: IncomingHttpHeaders }): string {
  const name = /^Bearer (\w+)$/.exec(headers.authorization ?? "")?.[1];
  if (!name) throw new onExpress.Refused(401);
  return name;
}

interface Question {
  readonly id: string;
  readonly text: string;
}

export type Framework = "express" | "fastify";

export class App implements AsyncDisposable {
  /** How the streams ended. */
  readonly ends: ReplyEnd[] = [];
  /** The streams of all requests. */
  readonly streams: ReplyStream[] = [];
  readonly #folder = builtPage();
  readonly client: Client;
  #server!: Server;
  url = "";

  private constructor(
    address: string,
    clientOptions: ClientOptions,
    private readonly options: SendOptions & { readonly page?: string },
  ) {
    this.client = new Client(address, clientOptions);
  }

  static async start(
    framework: Framework,
    address: string,
    options: SendOptions & { readonly page?: string } = {},
    clientOptions: ClientOptions = {},
  ): Promise<App> {
    const app = new App(address, { backoff: { maxElapsedMs: 3_000 }, ...clientOptions }, options);
    app.#server = framework === "express" ? app.#express() : await app.#fastify();
    if (!app.#server.listening) await once(app.#server, "listening");
    app.url = `http://127.0.0.1:${(app.#server.address() as AddressInfo).port}`;
    return app;
  }

  /** Sends a request as a user. */
  fetch(path: string, { user = "ada", ...init }: RequestInit & { user?: string } = {}): Promise<Response> {
    const headers = new Headers(init.headers);
    if (user) headers.set("authorization", `Bearer ${user}`);
    if (init.body && !headers.has("content-type")) headers.set("content-type", "application/json");
    return fetch(this.url + path, { ...init, headers });
  }

  post(path: string, body: object, init: RequestInit & { user?: string } = {}): Promise<Response> {
    return this.fetch(path, { ...init, method: "POST", body: JSON.stringify(body) });
  }

  /** Shuts down as at SIGTERM. */
  async shutDown(): Promise<void> {
    await onExpress.shutDown(this.#server, this.client);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.client.close();
    this.#server.close();
    this.#server.closeAllConnections();
    rmSync(join(this.#folder, ".."), { recursive: true });
  }

  #page<Request extends { readonly headers: IncomingHttpHeaders }>() {
    const settings = (_request: Request, id: string) => ({ labels: { retried: id } });
    return {
      client: this.client,
      config: CONFIG,
      endUser: endUser as (request: Request) => string,
      settings,
    };
  }

  async #ask(headers: IncomingHttpHeaders, { id, text }: Question): Promise<ReplyStream> {
    const client = this.client.actingFor(endUser({ headers }));
    await onExpress.ensureConversation(client, { id }, { question: text });
    const requestId = onExpress.idempotencyKey(headers);
    const stream = client.streamReply({ conversationId: id, text, requestId });
    this.streams.push(stream);
    return stream;
  }

  #express(): Server {
    const app = express();
    app.use(express.json({ limit: "100kb" }));
    app.post("/ask", async (req, res) => {
      const stream = await this.#ask(req.headers, req.body as Question);
      this.ends.push(await onExpress.sendReply(res, stream, EVENTS, this.options));
    });
    app.post("/whole", async (req, res) => {
      const event = await onExpress.wholeReply(res, await this.#ask(req.headers, req.body as Question));
      res.json({ text: event?.text, reason: event?.reason });
    });
    app.get("/defect", () => {
      throw new Error("a secret detail at /home/x");
    });
    app.use("/api/page", onExpress.pageRoutes<express.Request>(this.#page()));
    app.use(onExpress.pageFiles(this.options.page ?? this.#folder));
    app.use(onExpress.notFound);
    app.use(onExpress.errors);
    return app.listen(0, "127.0.0.1");
  }

  async #fastify(): Promise<Server> {
    const app = fastify({ bodyLimit: 100 * 1024, frameworkErrors: onFastify.errors });
    app.setErrorHandler(onFastify.errors);
    app.setNotFoundHandler(onFastify.notFound);
    app.post("/ask", async (request, reply) => {
      const stream = await this.#ask(request.headers, request.body as Question);
      this.ends.push(await onFastify.sendReply(reply, stream, EVENTS, this.options));
      return reply;
    });
    app.post("/whole", async (request, reply) => {
      const event = await onFastify.wholeReply(
        reply,
        await this.#ask(request.headers, request.body as Question),
      );
      return { text: event?.text, reason: event?.reason };
    });
    app.get("/defect", async () => {
      throw new Error("a secret detail at /home/x");
    });
    await app.register(onFastify.pageRoutes, {
      prefix: "/api/page",
      ...this.#page<fastify.FastifyRequest>(),
    });
    await app.register(onFastify.pageFiles, { folder: this.options.page ?? this.#folder });
    await app.listen({ port: 0, host: "127.0.0.1" });
    return app.server;
  }
}

export type Json = Record<string, unknown>;

/** The events of a response, in order; a comment is `{ comment }`. */
export async function* eventsOf(response: Response): AsyncGenerator<Json> {
  let rest = "";
  for await (const piece of response.body!.pipeThrough(new TextDecoderStream())) {
    const blocks = (rest + piece).split("\n\n");
    rest = blocks.pop()!;
    for (const block of blocks) {
      yield block.startsWith("data: ") ? (JSON.parse(block.slice(6)) as Json) : { comment: block };
    }
  }
}

export async function allEvents(response: Response): Promise<Json[]> {
  const found: Json[] = [];
  for await (const event of eventsOf(response)) found.push(event);
  return found;
}
