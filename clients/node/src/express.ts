/**
 * Parley behind Express 5: streams of replies, refusals, and the routes and files of a chat page.
 *
 * Its handlers have the types of Node's own requests and responses, which Express extends.
 */

import type { IncomingMessage, OutgoingHttpHeaders, ServerResponse } from "node:http";
import type { ReplyStream } from "./stream.js";
import { pageFile } from "./web/files.js";
import { answerPage, type PageOptions } from "./web/page/router.js";
import { Refused, concernsOperator, refusal } from "./web/refusal.js";
import { firstEvent, sendFrom, type ReplyEnd, type ReplyEvents, type SendOptions } from "./web/reply.js";

export * from "./web/index.js";
export { wholeReply } from "./web/reply.js";

/** A request of Express, after `express.json()` if its body is needed. */
export type ExpressRequest = IncomingMessage & { readonly body?: unknown };
type Next = (error?: unknown) => void;

/**
 * Waits until the reply is accepted, then sends its events as server-sent events. Throws before the headers are sent if
 * the reply is refused: `errors` makes a status of it.
 */
export async function sendReply(
  response: ServerResponse,
  stream: ReplyStream,
  events: ReplyEvents,
  options?: SendOptions,
): Promise<ReplyEnd> {
  return await sendFrom(await firstEvent(response, stream), response, stream, events, options);
}

/** The routes of the page: `app.use("/api/page", pageRoutes({ ... }))`, after `express.json()`. */
export function pageRoutes<Request extends ExpressRequest>(options: PageOptions<Request>) {
  return (request: Request, response: ServerResponse, next: Next): void => {
    const { method = "", url = "", headers, body } = request;
    answerPage({ method, url, headers, body, request }, options)
      .then(async (answer) => {
        if ("stream" in answer) await sendReply(response, answer.stream, answer.events, { attachable: true });
        else send(response, answer.status, answer.headers, answer.body);
      })
      .catch(next);
  };
}

/** The page itself, from the folder of its build: `app.use(pageFiles(folder))`. */
export function pageFiles(folder: string) {
  return (request: IncomingMessage, response: ServerResponse, next: Next): void => {
    if (request.method !== "GET" && request.method !== "HEAD") return next();
    pageFile(folder, request.url?.split("?", 1)[0] ?? "")
      .then((file) => (file ? send(response, 200, file.headers, file.body) : next()))
      .catch(next);
  };
}

/** Refuses requests that no route took. Use it after all routes. */
export function notFound(_request: IncomingMessage, _response: ServerResponse, next: Next): void {
  next(new Refused(404));
}

/** Answers errors as JSON, and logs those that concern the operator. Use it last: Express knows it by its four parameters. */
export function errors(
  error: unknown,
  _request: IncomingMessage,
  response: ServerResponse,
  _next: Next,
): void {
  if (concernsOperator(error)) console.error(error);
  if (response.headersSent) return void response.end();
  const { status, headers, body } = refusal(error);
  send(response, status, headers, body);
}

function send(
  response: ServerResponse,
  status: number,
  headers: OutgoingHttpHeaders = {},
  body?: object | Uint8Array,
): void {
  response.statusCode = status;
  for (const [name, value] of Object.entries(headers))
    if (value !== undefined) response.setHeader(name, value);
  if (body === undefined) return void response.end();
  if (body instanceof Uint8Array) return void response.end(body);
  response.setHeader("content-type", "application/json; charset=utf-8");
  response.end(JSON.stringify(body));
}
