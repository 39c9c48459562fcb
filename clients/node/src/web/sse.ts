/** Writes server-sent events to a response, at the pace of its reader. */

import type { OutgoingHttpHeaders, ServerResponse } from "node:http";

/** Proxies and browsers close a connection that is silent for longer than about a minute. */
const KEEP_ALIVE_MS = 10_000;

const HEADERS: OutgoingHttpHeaders = {
  "content-type": "text/event-stream; charset=utf-8",
  "cache-control": "no-cache",
  "x-accel-buffering": "no", // nginx would collect the events
};

/** One response of server-sent events. Events are `data:` lines of JSON; a comment is sent after each silence. */
export class EventStream {
  readonly #response: ServerResponse;
  readonly #alive: NodeJS.Timeout;

  /** Sends the headers at once. */
  constructor(response: ServerResponse, keepAliveMs = KEEP_ALIVE_MS) {
    this.#response = response;
    response.writeHead(200, HEADERS);
    response.flushHeaders();
    this.#alive = setInterval(() => this.#keepAlive(), keepAliveMs);
    response.once("close", () => clearInterval(this.#alive));
  }

  /** Writes an event and waits until a slow reader has room for the next one. `undefined` is no event. */
  async send(event: object | undefined): Promise<void> {
    if (!event || this.#response.destroyed) return;
    this.#alive.refresh();
    if (!this.#response.write(`data: ${JSON.stringify(event)}\n\n`)) await this.#drained();
  }

  end(): void {
    clearInterval(this.#alive);
    this.#response.end();
  }

  #keepAlive(): void {
    // A reader that has not taken the last events gets no comments, which would only fill memory.
    if (!this.#response.writableNeedDrain) this.#response.write(": alive\n\n");
  }

  #drained(): Promise<void> {
    const response = this.#response;
    return new Promise((resolve) => {
      const done = () => {
        response.off("drain", done).off("close", done);
        resolve();
      };
      response.on("drain", done).on("close", done);
      if (response.destroyed) done();
    });
  }
}
