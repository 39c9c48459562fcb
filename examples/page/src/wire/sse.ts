import { createParser } from "eventsource-parser";
import { failure } from "./events";
import { cut, Fault, unreadable } from "./fault";
import { readJson, type Http, type Request } from "./http";

/** Backends send a comment every 10 s, so that this much silence means a dead connection. */
export const SILENCE_MS = 30_000;

export interface SseLimits {
  silenceMs?: number;
  /** Longest wait for the first event after the status; unlimited by default. */
  firstEventMs?: number;
}

export interface Handlers {
  /** A stream of events begins. */
  onOpen?: () => void;
  onData: (fields: Fields) => void;
  /** For a backend that may answer with one JSON object instead of a stream. */
  onJson?: (fields: Fields) => void;
}

export type Fields = Record<string, unknown>;

/** Posts or gets, and calls `onData` with the JSON of each event. Returns the status at the end of the body. */
export async function readEvents(
  http: Http,
  method: string,
  path: string,
  request: Request & { signal: AbortSignal },
  handlers: Handlers,
  limits: SseLimits = {},
): Promise<number> {
  const watch = new Watch(request.signal, limits);
  watch.heard();
  try {
    const headers = { accept: "text/event-stream", ...request.headers };
    const response = await http.request(method, path, { ...request, headers, signal: watch.signal });
    if (response.status === 204) return response.status;
    watch.heard();
    if (!isEventStream(response)) {
      if (!handlers.onJson) throw unreadable();
      handlers.onJson(await readJson<Fields>(response, watch.signal));
      return response.status;
    }
    handlers.onOpen?.();
    await readBody(response, watch, handlers.onData);
    return response.status;
  } finally {
    watch.stop();
  }
}

function isEventStream(response: Response): boolean {
  return response.headers.get("content-type")?.startsWith("text/event-stream") ?? false;
}

async function readBody(response: Response, watch: Watch, onData: (fields: Fields) => void): Promise<void> {
  const parser = createParser({
    onEvent: ({ data }) => {
      const fields = parse(data);
      watch.firstEvent();
      onData(fields);
    },
  });
  const decoder = new TextDecoder();
  const reader = (response.body as ReadableStream<Uint8Array>).getReader();
  try {
    for (;;) {
      const { done, value } = await next(reader, watch);
      if (done) return;
      watch.heard();
      parser.feed(decoder.decode(value, { stream: true }));
    }
  } finally {
    // Ends the connection if the reading ended first, such as by an event that cannot be read.
    reader.cancel().catch(() => undefined);
  }
}

async function next(reader: ReadableStreamDefaultReader<Uint8Array>, watch: Watch) {
  try {
    return await reader.read();
  } catch {
    throw watch.signal.aborted ? watch.signal.reason : cut();
  }
}

function parse(data: string): Fields {
  let value: unknown;
  try {
    value = JSON.parse(data);
  } catch {
    throw unreadable();
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw unreadable();
  return value as Fields;
}

/** Aborts the request when the caller does, after silence, and when the first event is late. */
class Watch {
  private readonly controller = new AbortController();
  private readonly silenceMs: number;
  private silence: ReturnType<typeof setTimeout> | undefined;
  private first: ReturnType<typeof setTimeout> | undefined;
  private readonly leave = () => this.controller.abort(this.outer.reason);

  constructor(
    private readonly outer: AbortSignal,
    { silenceMs = SILENCE_MS, firstEventMs }: SseLimits,
  ) {
    this.silenceMs = silenceMs;
    if (outer.aborted) this.leave();
    outer.addEventListener("abort", this.leave);
    if (firstEventMs !== undefined) {
      this.first = setTimeout(() => this.controller.abort(late(firstEventMs)), firstEventMs);
    }
  }

  get signal(): AbortSignal {
    return this.controller.signal;
  }

  heard(): void {
    clearTimeout(this.silence);
    this.silence = setTimeout(() => this.controller.abort(cut()), this.silenceMs);
  }

  firstEvent(): void {
    clearTimeout(this.first);
  }

  stop(): void {
    clearTimeout(this.silence);
    clearTimeout(this.first);
    this.outer.removeEventListener("abort", this.leave);
  }
}

function late(limitMs: number): Fault {
  const message = `The model has not begun to answer within ${limitMs / 1000} seconds.`;
  return new Fault("fatal", failure("STREAM_TIMEOUT", message, { retryable: true }));
}
