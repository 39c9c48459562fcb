import type { OnEvent, Question, Wire } from "./events";
import { Fault } from "./fault";
import { failureOf, number, string } from "./fields";
import type { Http } from "./http";
import { uuid } from "./ids";
import { key } from "./page";
import { Report } from "./report";
import { readEvents, type Fields } from "./sse";
import { subject } from "./token";

/** Guide 002: a question about an image. Its content events carry the whole text so far. */
export class ImageWire implements Wire {
  readonly newConversationId = uuid;

  constructor(private readonly http: Http) {}

  async send(question: Question, onEvent: OnEvent, signal: AbortSignal): Promise<void> {
    const report = new Report(onEvent);
    const request = { body: this.body(question), headers: key(question.requestId), signal };
    if (!question.streaming) {
      await this.whole(request, report);
      return;
    }
    let streaming = false;
    const onOpen = () => {
      streaming = true;
      report.accepted();
    };
    try {
      await readEvents(this.http, "POST", "/api/ai/chat-image-stream", request, {
        onOpen,
        onData: (fields) => read(fields, report),
      });
    } catch (error) {
      if (streaming || !cannotStream(error)) throw error;
      await this.whole(request, report);
    }
    report.end();
  }

  private body({ conversationId, text, pictures }: Question): object {
    return {
      ...(pictures[0] ? { base64_image: pictures[0].data } : {}),
      prompt: text,
      subject: "general",
      session_id: conversationId,
      student_id: subject(this.http.credential),
    };
  }

  private async whole(request: object, report: Report): Promise<void> {
    await this.http.json("POST", "/api/ai/chat-image", request);
    // The page reads the stored messages after the end, so that the answer's body is not needed.
    report.event({ type: "finished", reason: "STOP" });
  }
}

/** A proxy that buffers or rewrites streams answers with another content type or refuses the method. */
function cannotStream(error: unknown): boolean {
  if (!(error instanceof Fault)) return false;
  return error.failure.code === "PARSE_ERROR" || error.status === 405 || error.status === 501;
}

function read(fields: Fields, report: Report): void {
  switch (fields["type"]) {
    case "content":
      return report.event({ type: "snapshot", text: string(fields["content"]) });
    case "end":
      report.event({ type: "snapshot", text: string(fields["content"]) });
      return report.event(finished(fields));
    case "error":
      return report.failed(failureOf(fields));
  }
}

function finished(fields: Fields) {
  const tokens = number(fields["tokens"]);
  const reason = string(fields["finish_reason"]).toUpperCase() || "STOP";
  return { type: "finished", reason, ...(tokens === null ? {} : { outputTokens: tokens }) } as const;
}
