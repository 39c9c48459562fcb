import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { Http } from "../src/wire/http";

export interface Received {
  method: string;
  path: string;
  headers: IncomingMessage["headers"];
  body: unknown;
}

type Answer = (response: ServerResponse, received: Received) => void | Promise<void>;

/** A real HTTP server that answers each request with the next of its answers, and keeps what it received. */
export class Server {
  readonly received: Received[] = [];
  private readonly answers: Answer[] = [];
  private readonly server = createServer((request, response) => void this.handle(request, response));

  async start(): Promise<this> {
    await new Promise<void>((resolve) => this.server.listen(0, "127.0.0.1", resolve));
    return this;
  }

  async stop(): Promise<void> {
    this.server.closeAllConnections();
    await new Promise((resolve) => this.server.close(resolve));
  }

  get base(): string {
    return `http://127.0.0.1:${(this.server.address() as AddressInfo).port}`;
  }

  http(credential: string | null = "token-of-ada"): Http {
    return new Http({ base: this.base, credential: () => credential });
  }

  answer(...answers: Answer[]): this {
    this.answers.push(...answers);
    return this;
  }

  private async handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const pieces: Buffer[] = [];
    for await (const piece of request) pieces.push(piece as Buffer);
    const text = Buffer.concat(pieces).toString();
    const received = {
      method: request.method ?? "",
      path: request.url ?? "",
      headers: request.headers,
      body: text === "" ? null : (JSON.parse(text) as unknown),
    };
    this.received.push(received);
    const answer = this.answers.shift() ?? json(500, { message: "the test has no answer for this request" });
    await answer(response, received);
  }
}

export function json(status: number, body: unknown, headers: Record<string, string> = {}): Answer {
  return (response) => {
    response.writeHead(status, { "content-type": "application/json", ...headers }).end(JSON.stringify(body));
  };
}

export const nothing: Answer = (response) => void response.writeHead(204).end();

export function events(...all: object[]): string {
  return all.map((event) => `data: ${JSON.stringify(event)}\n\n`).join("");
}

const SSE = { "content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache" };

export function sse(...all: object[]): Answer {
  return (response) => void response.writeHead(200, SSE).end(events(...all));
}

/** Sends the first `bytes` of the events, in two writes, and breaks the connection. */
export function sseCut(bytes: number, ...all: object[]): Answer {
  return async (response) => {
    response.writeHead(200, SSE);
    const data = Buffer.from(events(...all)).subarray(0, bytes);
    await write(response, data.subarray(0, bytes >> 1));
    await write(response, data.subarray(bytes >> 1));
    response.destroy();
  };
}

/** Sends the events, and then neither more nor the end. */
export function sseOpen(...all: object[]): Answer {
  return (response) => void response.writeHead(200, SSE).write(events(...all) || ": alive\n\n");
}

/** Breaks the connection before there is an answer. */
export const broken: Answer = (response) => void response.destroy();

/** Resolves when the bytes have left the process, so that the reader gets them as a piece of their own. */
function write(response: ServerResponse, data: Uint8Array): Promise<void> {
  return new Promise((resolve) => response.write(data, () => setImmediate(resolve)));
}
