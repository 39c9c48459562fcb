import type { OnEvent } from "../wire/events";
import { Fault } from "../wire/fault";
import type { Http } from "../wire/http";
import { followPageEvents, key } from "../wire/page";
import type { Config, Conversation, ConversationPage, MessagePage, Model } from "./types";

const ROOT = "/api/page";

/** The page routes: the same in every backend. Errors are of class `Fault`. */
export class PageApi {
  constructor(private readonly http: Http) {}

  config(): Promise<Config> {
    return this.http.json("GET", `${ROOT}/config`);
  }

  async login(name: string): Promise<string> {
    const { token } = await this.http.json<{ token: string }>("POST", "/api/login", { body: { name } });
    return token;
  }

  conversations(pageToken: string | null = null): Promise<ConversationPage> {
    return this.http.json("GET", `${ROOT}/conversations${query({ page_token: pageToken })}`);
  }

  /** Null if there is no such conversation, or not one of this user. */
  async conversation(id: string): Promise<Conversation | null> {
    return orNull(this.http.json("GET", at(id)));
  }

  async remove(id: string): Promise<void> {
    await orNull(this.http.request("DELETE", at(id)));
  }

  async messages(id: string, pageToken: string | null = null): Promise<MessagePage | null> {
    return orNull(this.http.json("GET", `${at(id)}/messages${query({ page_token: pageToken })}`));
  }

  async models(): Promise<Model[]> {
    const { models } = await this.http.json<{ models: Model[] }>("GET", `${ROOT}/models`);
    return models;
  }

  async image(id: string, signal: AbortSignal): Promise<Blob> {
    const response = await this.http.request("GET", `${ROOT}/images/${encodeURIComponent(id)}`, { signal });
    return response.blob();
  }

  /** Reads the running reply to its end, from `after` if `replyId` is the running one, else from its beginning. */
  attach(
    id: string,
    { replyId, after }: { replyId: string; after: number },
    onEvent: OnEvent,
    signal: AbortSignal,
  ): Promise<"over" | "nothing"> {
    const position = replyId ? { reply_id: replyId, after: String(after) } : {};
    return followPageEvents(this.http, "GET", `${at(id)}/stream${query(position)}`, { signal }, onEvent);
  }

  /** False if nothing runs. With a `requestId` that has not arrived yet, its reply will start as cancelled. */
  async stop(id: string, requestId: string | null, signal: AbortSignal): Promise<boolean> {
    const body = requestId ? { request_id: requestId } : {};
    try {
      await this.http.request("POST", `${at(id)}/stop`, { body, signal });
      return true;
    } catch (error) {
      if (error instanceof Fault && (error.status === 409 || error.status === 404)) return false;
      throw error;
    }
  }

  async retry(
    id: string,
    messageId: string,
    requestId: string,
    onEvent: OnEvent,
    signal: AbortSignal,
  ): Promise<void> {
    const request = { body: { replace_message_id: messageId }, headers: key(requestId), signal };
    await followPageEvents(this.http, "POST", `${at(id)}/retry`, request, onEvent);
  }
}

function at(conversationId: string): string {
  return `${ROOT}/conversations/${encodeURIComponent(conversationId)}`;
}

function query(values: Record<string, string | null>): string {
  const present = Object.entries(values).filter((entry): entry is [string, string] => entry[1] !== null);
  return present.length ? `?${new URLSearchParams(present)}` : "";
}

async function orNull<T>(answer: Promise<T>): Promise<T | null> {
  try {
    return await answer;
  } catch (error) {
    if (error instanceof Fault && error.status === 404) return null;
    throw error;
  }
}
