/** The product in its own process with a real Parley server beside it, and browsers. */

import assert from "node:assert/strict";
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer, type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import type { Readable } from "node:stream";
import { fileURLToPath } from "node:url";
import { Client } from "@parley/client";
import { Tokens } from "../src/tokens.js";

export const ROOT = fileURLToPath(new URL("../../", import.meta.url));
export const MAIN = join(ROOT, "build/src/main.js");
export const KEY = "a key of the tests that is long enough";
const PARLEY = process.env["PARLEY_BIN"] ?? join(ROOT, "../../.venv/bin/parley");
const TOKENS = new Tokens(KEY);

export type Json = Record<string, unknown>;
type Fields = Omit<RequestInit, "body"> & { user?: string; body?: Json };

/** A Parley server with the `parley.toml` of the example, and processes of the product. */
export class Stand implements AsyncDisposable {
  readonly #folder = mkdtempSync(join(tmpdir(), "parley-example-"));
  readonly #children: ChildProcess[] = [];
  #server!: ChildProcess;

  private constructor(
    private readonly address: string,
    /** A client of Parley itself, which sees all users. */
    readonly client = new Client(address),
  ) {}

  static async start(): Promise<Stand> {
    const stand = new Stand(`127.0.0.1:${await freePort()}`);
    await stand.startParley();
    return stand;
  }

  /** Starts Parley, again after `killParley`, with the same database. */
  async startParley(): Promise<void> {
    const { child } = await this.#start(PARLEY, ["serve"], "stderr", /Parley serves on/, {
      PARLEY_CONFIG: join(ROOT, "parley.toml"),
      PARLEY_LISTEN: this.address,
      PARLEY_METRICS_LISTEN: "",
      PARLEY_DATABASE_URL: `sqlite+aiosqlite:///${this.#folder}/parley.db`,
    });
    this.#server = child;
  }

  async killParley(): Promise<void> {
    this.#server.kill("SIGKILL");
    await once(this.#server, "exit");
  }

  /** Starts the product. `env`: further variables. */
  async startProduct(env: Record<string, string> = {}): Promise<Product> {
    const settings = { CHAT_JWT_KEY: KEY, PARLEY_ADDRESS: this.address, PORT: "0", ...env };
    const { child, line } = await this.#start(process.execPath, [MAIN], "stdout", /^http:/, settings);
    return new Product(child, line);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.client.close();
    for (const child of this.#children.reverse()) {
      if (child.exitCode === null && child.signalCode === null && child.kill()) await once(child, "exit");
    }
    rmSync(this.#folder, { recursive: true });
  }

  /** Starts a process, and waits for the line that reports that it is ready. */
  async #start(
    command: string,
    args: string[],
    output: "stdout" | "stderr",
    ready: RegExp,
    env: Record<string, string>,
  ): Promise<{ child: ChildProcess; line: string }> {
    const variables = { ...process.env, PARLEY_BIN: undefined, ...env };
    const child = spawn(command, args, { cwd: this.#folder, env: variables, stdio: "pipe" });
    this.#children.push(child);
    child[output === "stdout" ? "stderr" : "stdout"].pipe(process.stderr);
    const line = await new Promise<string>((resolve, reject) => {
      const lines = createInterface({ input: child[output] as Readable });
      lines.on("line", (line) => ready.test(line) && resolve(line));
      child.once("exit", (status) => reject(new Error(`${command} ended with ${status}`)));
    });
    return { child, line };
  }
}

/** A process of the product, and requests of its users. */
export class Product {
  constructor(
    readonly process: ChildProcess,
    readonly url: string,
  ) {}

  /** Sends a request as a user, with JSON if there is a body. */
  async fetch(path: string, { user = "ada", body, ...init }: Fields = {}): Promise<Response> {
    const headers = new Headers(init.headers);
    if (user) headers.set("authorization", `Bearer ${(await TOKENS.issue(user)).token}`);
    if (!body) return await fetch(this.url + path, { ...init, headers });
    headers.set("content-type", "application/json");
    return await fetch(this.url + path, { method: "POST", ...init, headers, body: JSON.stringify(body) });
  }

  async json(path: string, fields: Fields = {}): Promise<Json> {
    return (await (await this.fetch(path, fields)).json()) as Json;
  }

  /** The stored messages as [role, text, partial]. */
  async stored(conversationId: string): Promise<unknown[][]> {
    const { messages } = await this.json(`/api/page/conversations/${conversationId}/messages`);
    return (messages as Json[]).map(({ role, text, partial }) => [role, text, partial]);
  }

  /** Sends SIGTERM; returns the exit status. */
  async terminate(): Promise<number | null> {
    this.process.kill("SIGTERM");
    if (this.process.exitCode === null) await once(this.process, "exit");
    return this.process.exitCode;
  }
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}

/** A script for the scripted model. */
export function script(fields: Json): string {
  return `/script ${JSON.stringify(fields)}`;
}

export async function* eventsOf(response: Response): AsyncGenerator<Json> {
  assert.equal(
    response.headers.get("content-type"),
    "text/event-stream; charset=utf-8",
    String(response.status),
  );
  let rest = "";
  for await (const piece of response.body!.pipeThrough(new TextDecoderStream())) {
    const blocks = (rest + piece).split("\n\n");
    rest = blocks.pop()!;
    for (const block of blocks) if (block.startsWith("data: ")) yield JSON.parse(block.slice(6)) as Json;
  }
}

export async function allEvents(events: Response | AsyncIterable<Json>): Promise<Json[]> {
  const found: Json[] = [];
  for await (const event of events instanceof Response ? eventsOf(events) : events) found.push(event);
  return found;
}
