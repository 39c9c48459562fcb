/** The routes: `/chat` streams a reply as server-sent events, `/stop` cancels it. */

import { once } from "node:events";
import { fileURLToPath } from "node:url";
import express, { type Express, type Request, type Response } from "express";
import { ParleyError, ReplyNotFound, type Client, type ReplyEvent, type ReplyStream } from "@parley/client";

const PAGE = fileURLToPath(new URL("../../public", import.meta.url));

export function createApp(client: Client): Express {
  const app = express();
  app.use(express.json(), express.static(PAGE));

  // A browser's EventSource can only send GET; other callers can use POST. Both can be repeated: a `requestId` starts one
  // reply, and a request with a Last-Event-ID gets the events after it.
  app.get("/chat", (req, res) => chat(req, res, req.query));
  app.post("/chat", (req, res) => chat(req, res, req.body));

  app.post("/stop", async (req, res) => {
    try {
      const { finishReason } = await client.cancel(
        { requestId: field(req.body, "requestId") },
        { reason: "stopped" },
      );
      res.json({ finishReason });
    } catch (error) {
      if (error instanceof ReplyNotFound)
        res.status(202).end(); // not there yet: it will start as cancelled
      else if (error instanceof ParleyError)
        res.status(502).json({ reason: error.reason, message: error.message });
      else throw error;
    }
  });

  async function chat(req: Request, res: Response, fields: unknown): Promise<void> {
    // If the browser leaves, the call ends at once; `onDisconnect` decides whether the reply continues.
    const left = new AbortController();
    res.on("close", () => left.abort());
    const stream = open(req.get("last-event-id"), fields, left.signal);
    res.writeHead(200, {
      "content-type": "text/event-stream",
      "cache-control": "no-store",
      "x-accel-buffering": "no",
    });
    res.flushHeaders();
    try {
      for await (const event of stream) {
        const message = encode(event, stream);
        // Waits for a slow browser, which also slows down the server.
        if (message && !res.write(message)) await once(res, "drain", { signal: left.signal });
      }
    } catch (error) {
      if (left.signal.aborted) return;
      if (!(error instanceof ParleyError)) throw error;
      const { reason, message, retryable } = error;
      res.write(sse("error", { reason: reason || error.name, message, retryable }));
    }
    res.end();
  }

  function open(lastEventId: string | undefined, fields: unknown, signal: AbortSignal): ReplyStream {
    const seen = /^([\w-]+):(\d+)$/.exec(lastEventId ?? "");
    if (seen?.[1]) return client.resume(seen[1], { afterSequence: Number(seen[2]), signal });
    const [text, requestId, conversationId] = ["text", "requestId", "conversationId"].map((name) =>
      field(fields, name),
    );
    return client.streamReply({ text, requestId, conversationId, onDisconnect: "cancel" }, { signal });
  }

  return app;
}

function encode(event: ReplyEvent, { replyId, sequence }: ReplyStream): string {
  const id = `${replyId}:${sequence}`;
  switch (event.type) {
    case "accepted":
      return sse("accepted", { replyId, conversationId: event.conversationId }, id);
    case "text":
      return sse("chunk", { text: event.text }, id);
    case "snapshot":
      return sse("replace", { text: event.text }, id);
    case "finished":
      return sse("done", { reason: event.reason }, id);
    default:
      return "";
  }
}

function sse(event: string, data: object, id?: string): string {
  return `${id ? `id: ${id}\n` : ""}event: ${event}\ndata: ${JSON.stringify(data)}\n\n`;
}

function field(fields: unknown, name: string): string {
  const value = (fields as Record<string, unknown> | undefined)?.[name];
  return typeof value === "string" ? value : "";
}
