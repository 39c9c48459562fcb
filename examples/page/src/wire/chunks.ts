import type { OnEvent, Question, Wire } from "./events";
import { failureOf } from "./fields";
import type { Http } from "./http";
import { uuid } from "./ids";
import { key } from "./page";
import { Report } from "./report";
import { readEvents } from "./sse";

/** Story 3.2: `chunk`, `done` and `error` events. */
export class ChunksWire implements Wire {
  readonly newConversationId = uuid;

  constructor(private readonly http: Http) {}

  async send(question: Question, onEvent: OnEvent, signal: AbortSignal): Promise<void> {
    const { conversationId, text, requestId } = question;
    const report = new Report(onEvent);
    const request = { body: { conversationId, message: text }, headers: key(requestId), signal };
    await readEvents(this.http, "POST", "/api/ai/chat/stream", request, {
      onOpen: report.accepted,
      onData: (fields) => {
        if (fields["type"] === "chunk") report.text(fields["content"]);
        else if (fields["type"] === "done") report.event({ type: "finished", reason: "STOP" });
        else if (fields["type"] === "error") report.failed(failureOf(fields));
      },
    });
    report.end();
  }
}
