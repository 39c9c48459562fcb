import type { OnEvent, Question, Wire } from "./events";
import { failureOf, number, string } from "./fields";
import type { Http } from "./http";
import { uuid } from "./ids";
import { key } from "./page";
import { Report } from "./report";
import { readEvents, type Fields } from "./sse";

export const FIRST_TOKEN_MS = 30_000;

/**
 * Notes 004: one endpoint, whose `Accept` header decides. A backend whose streaming is switched off answers JSON to both.
 * Rejects with the codes STREAM_TIMEOUT, PARSE_ERROR, NETWORK_ERROR, HTTP_xxx, INVALID_CALLBACK and CALLBACK_ERROR.
 */
export class NegotiateWire implements Wire {
  readonly newConversationId = uuid;

  constructor(
    private readonly http: Http,
    private readonly firstTokenMs = FIRST_TOKEN_MS,
  ) {}

  async send(question: Question, onEvent: OnEvent, signal: AbortSignal): Promise<void> {
    const { conversationId, text, requestId, streaming, model } = question;
    const report = new Report(onEvent);
    const body = { message: text, conversation_id: conversationId, ...(model ? { model } : {}) };
    const request = { body, headers: key(requestId), signal };
    if (streaming) await this.stream(request, report);
    else this.whole(await this.http.json<Fields>("POST", PATH, request), report);
    report.end();
  }

  private async stream(request: Parameters<typeof readEvents>[3], report: Report): Promise<void> {
    const handlers = {
      onOpen: report.accepted,
      onData: (fields: Fields) => read(fields, report),
      onJson: (fields: Fields) => this.whole(fields, report),
    };
    await readEvents(this.http, "POST", PATH, request, handlers, { firstEventMs: this.firstTokenMs });
  }

  private whole(fields: Fields, report: Report): void {
    report.text(fields["content"]);
    report.event(complete(fields));
  }
}

const PATH = "/api/v1/messages";

function read(fields: Fields, report: Report): void {
  switch (fields["type"]) {
    case "token":
      return report.text(fields["content"]);
    case "complete":
      return report.event(complete(fields));
    case "error":
      return report.failed(failureOf(fields));
  }
}

function complete(fields: Fields) {
  const tokens = number(fields["totalTokens"]);
  return {
    type: "finished",
    reason: "STOP",
    model: string(fields["model"]),
    ...(tokens === null ? {} : { outputTokens: tokens }),
  } as const;
}
