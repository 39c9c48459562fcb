import type { OnEvent, Question, Wire } from "./events";
import { failureOf, string } from "./fields";
import type { Http } from "./http";
import { integerId } from "./ids";
import { key } from "./page";
import { Report } from "./report";
import { readEvents, type Fields } from "./sse";

/** Roadmap 001: chat sessions with integer ids. Without streaming both messages come as one JSON answer. */
export class SessionsWire implements Wire {
  readonly newConversationId = integerId;

  constructor(private readonly http: Http) {}

  async send(question: Question, onEvent: OnEvent, signal: AbortSignal): Promise<void> {
    const { conversationId, text, requestId, streaming } = question;
    const report = new Report(onEvent);
    const path = `/api/chat-sessions/${encodeURIComponent(conversationId)}/send-message`;
    const request = { body: { content: text, stream: streaming }, headers: key(requestId), signal };
    if (!streaming) {
      await this.http.json("POST", path, request);
      // The page reads the stored messages after the end, so that the answer's body is not needed.
      report.event({ type: "finished", reason: "STOP" });
      return;
    }
    const handlers = { onOpen: report.accepted, onData: (fields: Fields) => read(fields, report) };
    await readEvents(this.http, "POST", path, request, handlers);
    report.end();
  }
}

function read(fields: Fields, report: Report): void {
  switch (fields["type"]) {
    case "content":
      return report.text(fields["data"]);
    case "done":
      return report.event({ type: "finished", reason: "STOP" });
    case "cancelled":
      return report.event({ type: "finished", reason: "CANCELLED", cancelReason: string(fields["reason"]) });
    case "error":
      return report.failed(failureOf(fields));
  }
}
