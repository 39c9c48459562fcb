import type { OnEvent, Question, Wire } from "./events";
import { pageEvent } from "./fields";
import type { Http, Request } from "./http";
import { uuid } from "./ids";
import { Report } from "./report";
import { readEvents } from "./sse";

/** The wire of `parley serve --ui`: sending is a page route, too. */
export class PageWire implements Wire {
  readonly newConversationId = uuid;

  constructor(private readonly http: Http) {}

  async send(question: Question, onEvent: OnEvent, signal: AbortSignal): Promise<void> {
    const { conversationId, text, pictures, requestId, model } = question;
    const path = `/api/page/conversations/${encodeURIComponent(conversationId)}/messages`;
    const images = pictures.map(({ mimeType, data }) => ({ mime_type: mimeType, data }));
    const body = { text, images, ...(model ? { model } : {}) };
    await followPageEvents(this.http, "POST", path, { body, headers: key(requestId), signal }, onEvent);
  }
}

export function key(requestId: string): Record<string, string> {
  return { "idempotency-key": requestId };
}

/** Reads a stream of page events to its last event. Returns "nothing" for a 204. */
export async function followPageEvents(
  http: Http,
  method: string,
  path: string,
  request: Request & { signal: AbortSignal },
  onEvent: OnEvent,
): Promise<"over" | "nothing"> {
  const report = new Report(onEvent);
  const status = await readEvents(http, method, path, request, {
    onOpen: report.accepted,
    onData: (fields) => {
      const event = pageEvent(fields);
      if (event) report.event(event);
    },
  });
  if (status === 204) return "nothing";
  report.end();
  return "over";
}
