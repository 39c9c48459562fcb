import { failure, type OnEvent, type Question, type Wire } from "./events";
import { Fault } from "./fault";
import { string } from "./fields";
import type { Http } from "./http";
import { uuid } from "./ids";
import { followPageEvents, key } from "./page";
import { Report } from "./report";
import type { Fields } from "./sse";
import { wait } from "./wait";

export const POLL_MS = 2_000;
export const GIVE_UP_MS = 60_000;

/** Story 4.2: a task that the page polls. With streaming the same product has a route whose events are those of the page. */
export class TasksWire implements Wire {
  readonly newConversationId = uuid;
  readonly growsWithoutStreaming = true;

  constructor(
    private readonly http: Http,
    private readonly pollMs = POLL_MS,
    private readonly giveUpMs = GIVE_UP_MS,
  ) {}

  async send(question: Question, onEvent: OnEvent, signal: AbortSignal): Promise<void> {
    const path = `/api/conversations/${encodeURIComponent(question.conversationId)}/messages`;
    const request = { body: { content: question.text }, headers: key(question.requestId), signal };
    if (question.streaming) {
      await followPageEvents(this.http, "POST", `${path}/stream`, request, onEvent);
      return;
    }
    const report = new Report(onEvent);
    const { task_id } = await this.http.json<Fields>("POST", path, request);
    report.accepted();
    await this.poll(string(task_id), report, signal);
  }

  private async poll(taskId: string, report: Report, signal: AbortSignal): Promise<void> {
    let shown = 0;
    let newsMs = performance.now();
    for (;;) {
      const task = await this.get(taskId, signal);
      const chunks = Array.isArray(task["chunks"]) ? task["chunks"] : [];
      report.text(chunks.slice(shown).map(string).join(""));
      if (chunks.length > shown) newsMs = performance.now();
      shown = Math.max(shown, chunks.length);
      if (task["status"] === "completed") return completed(task, report);
      if (task["status"] === "failed")
        return report.failed(failure("LLM_ERROR", string(task["error"]), AGAIN));
      if (performance.now() - newsMs > this.giveUpMs) throw gaveUp(this.giveUpMs);
      await wait(this.pollMs, signal);
    }
  }

  private async get(taskId: string, signal: AbortSignal): Promise<Fields> {
    try {
      return await this.http.json<Fields>("GET", `/api/tasks/${encodeURIComponent(taskId)}`, { signal });
    } catch (error) {
      if (error instanceof Fault && error.status === 404) throw expired();
      // The task runs on while the backend cannot be asked, so that its status is unknown and not refused.
      if (error instanceof Fault && error.status >= 500) throw new Fault("cut", error.failure);
      throw error;
    }
  }
}

const AGAIN = { retryable: true };

function completed(task: Fields, report: Report): void {
  const message = task["final_message"] as Fields | null;
  report.event({ type: "snapshot", text: string(message?.["content"]) });
  report.event({ type: "finished", reason: "STOP", messageId: string(message?.["id"]) });
}

function gaveUp(limitMs: number): Fault {
  const message = `No news of the answer for ${limitMs / 1000} seconds.`;
  return new Fault("fatal", failure("POLL_TIMEOUT", message, AGAIN));
}

function expired(): Fault {
  return new Fault("fatal", failure("EXPIRED", "This answer has expired on the server."));
}
