/** The routes that a chat page needs beside the product's own, without a web framework. */

import type { IncomingHttpHeaders } from "node:http";
import type { Client } from "../../client.js";
import type { ReplyFields } from "../../fields.js";
import { Refused } from "../refusal.js";
import * as calls from "./calls.js";

/** What the page reads before anything else, without credentials. */
export interface PageConfig {
  /** The events and routes by which this product takes questions. */
  readonly wire: "tasks" | "sessions" | "image" | "chunks" | "negotiate" | "page";
  /** How a user signs in. */
  readonly login: "none" | "demo" | "token" | "api_key";
  /** Whether a question may have an image. */
  readonly images: boolean;
  readonly title: string;
}

/** `Request` is the request of the web framework. */
export interface PageOptions<Request> {
  readonly client: Client;
  readonly config: PageConfig;
  /** Returns the end user of a request, or throws `Refused` with status 401. */
  readonly endUser: (request: Request) => string | Promise<string>;
  /** Returns the settings of a reply that is tried again: those with which the product sends a question. */
  readonly settings?: (request: Request, conversationId: string) => ReplyFields | Promise<ReplyFields>;
}

/** A request below the path at which the router is mounted. */
export interface PageRequest<Request> {
  readonly method: string;
  /** Such as "/conversations?page_token=x", as it was sent. */
  readonly url: string;
  readonly headers: IncomingHttpHeaders;
  readonly body: unknown;
  readonly request: Request;
}

const ROUTES: readonly (readonly [method: string, path: RegExp, handler: calls.PageHandler])[] = [
  ["GET", /^\/conversations$/, calls.listConversations],
  ["GET", /^\/conversations\/([^/]+)$/, calls.getConversation],
  ["DELETE", /^\/conversations\/([^/]+)$/, calls.deleteConversation],
  ["GET", /^\/conversations\/([^/]+)\/messages$/, calls.listMessages],
  ["GET", /^\/conversations\/([^/]+)\/stream$/, calls.attach],
  ["POST", /^\/conversations\/([^/]+)\/stop$/, calls.stop],
  ["POST", /^\/conversations\/([^/]+)\/retry$/, calls.retry],
  ["GET", /^\/images\/([^/]+)$/, calls.getImage],
];

/** Answers a request of the page. Throws the error of a refusal. */
export async function answerPage<Request>(
  asked: PageRequest<Request>,
  { client, config, endUser, settings }: PageOptions<Request>,
): Promise<calls.PageAnswer> {
  const [path = "", search = ""] = asked.url.split("?", 2);
  const method = asked.method === "HEAD" ? "GET" : asked.method;
  if (path === "/config") {
    refuseOthers(method, ["GET"]);
    return { status: 200, headers: { "cache-control": "no-cache" }, body: config };
  }
  const found = ROUTES.filter(([, pattern]) => pattern.test(path));
  if (found.length === 0) throw new Refused(404);
  refuseOthers(
    method,
    found.map(([allowed]) => allowed),
  );
  const [, pattern, handler] = found.find(([allowed]) => allowed === method)!;
  const id = decoded(pattern.exec(path)?.[1] ?? "");
  const user = await endUser(asked.request);
  return await handler({
    client: client.actingFor(user),
    id,
    query: new URLSearchParams(search),
    headers: asked.headers,
    body: asked.body,
    settings: async () => (await settings?.(asked.request, id)) ?? {},
  });
}

/** Throws a refusal with status 405 for a method that an address does not take. */
export function refuseOthers(method: string, allowed: readonly string[]): void {
  if (!allowed.includes(method))
    throw new Refused(405, undefined, { headers: { allow: allowed.join(", ") } });
}

function decoded(segment: string): string {
  try {
    return decodeURIComponent(segment);
  } catch {
    throw new Refused(400);
  }
}
