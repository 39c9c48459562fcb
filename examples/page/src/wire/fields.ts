import { failure, type Failure, type Finished, type ReplyEvent } from "./events";
import type { Fields } from "./sse";

/** Readers of fields that tolerate what a backend leaves out. */
export function string(value: unknown): string {
  return typeof value === "string" ? value : "";
}

export function number(value: unknown): number | null {
  return typeof value === "number" && Number.isFinite(value) ? value : null;
}

/** An error event of any product: `message` or `error`, and what else there is. */
export function failureOf(fields: Fields): Failure {
  const retryAfterS = number(fields["retry_after_s"]);
  return failure(
    string(fields["code"]) || "LLM_ERROR",
    string(fields["message"]) || string(fields["error"]),
    {
      retryable: fields["retryable"] !== false,
      retryAfterMs: retryAfterS === null ? null : retryAfterS * 1000,
    },
  );
}

/** An event of the page routes; null for a type that this version of the page does not have. */
export function pageEvent(fields: Fields): ReplyEvent | null {
  const sequence = number(fields["sequence"]) ?? 0;
  switch (fields["type"]) {
    case "reply":
      return {
        type: "reply",
        replyId: string(fields["reply_id"]),
        messageId: string(fields["message_id"]),
        after: number(fields["after"]) ?? 0,
      };
    case "text":
      return { type: "text", text: string(fields["text"]), sequence };
    case "snapshot":
      return { type: "snapshot", text: string(fields["text"]), sequence };
    case "waiting":
      return {
        type: "waiting",
        attempt: number(fields["attempt"]) ?? 1,
        delayMs: number(fields["delay_ms"]) ?? 0,
      };
    case "finished":
      return finished(fields);
    case "failed":
      return { type: "failed", failure: failureOf(fields), messageId: string(fields["message_id"]) };
    default:
      return null;
  }
}

function finished(fields: Fields): Finished {
  const input = number(fields["input_tokens"]);
  const output = number(fields["output_tokens"]);
  return {
    type: "finished",
    reason: string(fields["reason"]),
    cancelReason: string(fields["cancel_reason"]),
    model: string(fields["model"]),
    costUsd: number(fields["cost_usd"]),
    messageId: string(fields["message_id"]),
    ...(input === null ? {} : { inputTokens: input }),
    ...(output === null ? {} : { outputTokens: output }),
  };
}
