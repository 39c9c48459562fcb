/** The events that a page gets when it attaches to a reply or tries it again. */

import type { ReplyEvents } from "../reply.js";
import { costUsd } from "./json.js";

/** `after` is the sequence that the page has; at 0 it clears the text of the reply. */
export function pageEvents(after: number): ReplyEvents {
  return {
    accepted: ({ replyId, messageId }) => ({
      type: "reply",
      reply_id: replyId,
      message_id: messageId,
      after,
    }),
    text: ({ text }, { sequence }) => ({ type: "text", text, sequence }),
    snapshot: ({ text }, { sequence }) => ({ type: "snapshot", text, sequence }),
    reconnecting: ({ attempt, delayMs }) => ({ type: "waiting", attempt, delay_ms: delayMs }),
    finished: ({ reason, cancelReason, model, usage }, { messageId }) => ({
      type: "finished",
      reason,
      cancel_reason: cancelReason,
      model,
      input_tokens: usage.promptTokens,
      output_tokens: usage.completionTokens,
      cost_usd: costUsd(usage),
      message_id: messageId,
    }),
    failed: ({ retryAfterMs, messageId, ...body }) => ({
      type: "failed",
      ...body,
      retry_after_s: retryAfterMs === undefined ? null : retryAfterMs / 1_000,
      message_id: messageId,
    }),
  };
}
