/** The events of an answer in the words of the product. */

import type { Finished } from "@parley/client";
import type { ReplyEvents } from "@parley/client/fastify";

/** `startedMs`: when the request came, by `performance.now`. */
export function eventsSince(startedMs: number, onStart: () => void): ReplyEvents {
  let shown = "";
  const content = (text: string) => {
    const delta = text.startsWith(shown) ? text.slice(shown.length) : "";
    shown = text;
    return { type: "content", content: text, delta };
  };
  return {
    accepted: ({ model }) => {
      onStart();
      return { type: "start", timestamp: new Date().toISOString(), model };
    },
    text: (_event, { text }) => content(text),
    snapshot: ({ text }) => content(text),
    finished: (event) => ({ type: "end", ...answerJson(event, startedMs) }),
    failed: ({ message, error, code, retryable }) => ({ type: "error", error, message, code, retryable }),
  };
}

/** A whole answer, as the last event and as the answer without a stream. */
export function answerJson({ usage, reason, text, model }: Finished, startedMs: number) {
  return {
    tokens: usage.completionTokens,
    finish_reason: reason.toLowerCase(),
    processing_time_ms: Math.round(performance.now() - startedMs),
    content: text,
    model,
  };
}
