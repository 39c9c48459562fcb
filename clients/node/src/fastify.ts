/** Parley behind Fastify 5: streams of replies, refusals, and the routes and files of a chat page. */

import type { FastifyError, FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import type { Finished } from "./events.js";
import type { ReplyStream } from "./stream.js";
import { pageFile } from "./web/files.js";
import { answerPage, refuseOthers, type PageOptions } from "./web/page/router.js";
import { Refused, concernsOperator, refusal } from "./web/refusal.js";
import {
  firstEvent,
  sendFrom,
  wholeReply as readWhole,
  type ReplyEnd,
  type ReplyEvents,
  type SendOptions,
} from "./web/reply.js";

export * from "./web/index.js";

const DISCARDED_BYTES = 16 * 1024 * 1024;
const METHODS = ["DELETE", "GET", "PATCH", "POST", "PUT"];

/**
 * Waits until the reply is accepted, then sends its events as server-sent events. Throws before the headers are sent if
 * the reply is refused: `errors` makes a status of it. Headers that were set on `reply` are sent, too.
 */
export async function sendReply(
  reply: FastifyReply,
  stream: ReplyStream,
  events: ReplyEvents,
  options?: SendOptions,
): Promise<ReplyEnd> {
  const first = await firstEvent(reply.raw, stream);
  reply.hijack();
  for (const [name, value] of Object.entries(reply.getHeaders())) {
    if (value !== undefined) reply.raw.setHeader(name, value);
  }
  return await sendFrom(first, reply.raw, stream, events, options);
}

/**
 * Reads a reply to its end, for browsers that cannot stream. Throws the error of a refusal, or of a reply that failed.
 *
 * If the browser leaves, the call ends, and the result is undefined.
 */
export async function wholeReply(reply: FastifyReply, stream: ReplyStream): Promise<Finished | undefined> {
  return await readWhole(reply.raw, stream);
}

/** The routes of the page: `app.register(pageRoutes, { prefix: "/api/page", client, ... })`. */
export async function pageRoutes(app: FastifyInstance, options: PageOptions<FastifyRequest>): Promise<void> {
  app.all("/*", async (request, reply) => {
    const { method, headers, body } = request;
    const url = request.url.slice(app.prefix.length);
    const answer = await answerPage({ method, url, headers, body, request }, options);
    if ("stream" in answer) {
      await sendReply(reply, answer.stream, answer.events, { attachable: true });
      return reply;
    }
    const { status, headers: more = {}, body: content } = answer;
    return reply.code(status).headers(more).send(content);
  });
}

/** The page itself, from the folder of its build: `app.register(pageFiles, { folder })`. */
export async function pageFiles(app: FastifyInstance, { folder }: { folder: string }): Promise<void> {
  app.get("/*", async (request, reply) => {
    const file = await pageFile(folder, request.url.split("?", 1)[0] ?? "");
    if (!file) return reply.callNotFound();
    return reply.headers(file.headers).send(file.body);
  });
}

/** Refuses requests that no route took, with 405 if there is a route for another method: `app.setNotFoundHandler(notFound)`. */
export function notFound(this: FastifyInstance, request: FastifyRequest): never {
  const url = request.url.split("?", 1)[0] ?? "";
  const others = METHODS.filter((method) => this.hasRoute({ method: method as "GET", url }));
  if (others.length > 0) refuseOthers(request.method, others);
  throw new Refused(404);
}

/** Answers errors as JSON, and logs those that concern the operator: `fastify({ frameworkErrors: errors })` and `app.setErrorHandler(errors)`. */
export function errors(error: FastifyError | Error, request: FastifyRequest, reply: FastifyReply): void {
  if (concernsOperator(error)) request.log.error(error);
  const { status, headers, body } = refusal(error);
  if (status === 413) readOn(request, reply);
  void reply.code(status).headers(headers).send(body);
}

/** Reads the rest of a refused body. Fastify would close the connection, and a browser that still sends gets no answer then. */
function readOn({ raw }: FastifyRequest, reply: FastifyReply): void {
  let bytes = 0;
  reply.removeHeader("connection");
  raw.on("data", (piece: Buffer) => {
    bytes += piece.length;
    if (bytes > DISCARDED_BYTES) raw.destroy();
  });
}
