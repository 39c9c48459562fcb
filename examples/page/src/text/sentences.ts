import type { Failure } from "../wire/events";

/** What a person reads. Codes of Parley whose own message is written for developers, and codes of this page. */
const SENTENCES: Record<string, string> = {
  NETWORK_ERROR: "The server cannot be reached. Check your connection.",
  PARSE_ERROR: "The server's answer could not be read.",
  STREAM_TIMEOUT: "The model has not begun to answer within 30 seconds.",
  POLL_TIMEOUT:
    "There has been no news of this answer for 60 seconds. It may still come: reload the page later.",
  EXPIRED: "This answer has expired on the server. What was saved of it is shown here.",
  CALLBACK_ERROR: "This page could not show a part of the answer. Reload it to read the whole answer.",
  NOT_SENT: "Your question was not sent.",
  UNAUTHENTICATED: "Your session has ended. Please sign in again.",
  REPLY_IN_PROGRESS:
    "An answer is still being written in this conversation. Send your question when it is complete.",
  UNSUPPORTED_INPUT: "The model cannot read this kind of input.",
  CONTEXT_TOO_LARGE: "Your question is too long for this model. Please shorten it.",
  PROVIDER_CONTEXT_TOO_LARGE:
    "The conversation has become too long for this model. Start a new one, or shorten the question.",
  INPUT_TOO_LARGE: "Your question is too large. Please shorten it, or send a smaller image.",
  TOO_LARGE: "Your question is too large. Please shorten it, or send a smaller image.",
  CONVERSATION_NOT_FOUND: "This conversation does not exist, or it is not yours.",
  TOO_MANY_READERS: "This answer is open in too many windows. Close one of them.",
  DRAINING: "The service is restarting. Please try again in a moment.",
  OVERLOADED: "The service is busy. Please try again in a moment.",
  STORAGE_UNAVAILABLE: "The service cannot store messages at the moment. Please try again soon.",
  IDENTITY_UNAVAILABLE: "Your sign-in cannot be checked at the moment. Please try again soon.",
  PROVIDER_UNAVAILABLE: "The model cannot be reached at the moment.",
  PROVIDER_RATE_LIMITED: "The model is answering too many questions at the moment.",
  PROVIDER_TIMEOUT: "The model took too long to answer.",
  PROVIDER_REJECTED: "The model refused this question.",
  PROVIDER_UNAUTHENTICATED: "The model cannot be used: the service has no valid key for it.",
  PROVIDER_MALFORMED: "The model's answer could not be read.",
  PROVIDER_TRUNCATED: "The model stopped before the end of its answer.",
  OWNER_LOST: "The server that wrote this answer was stopped. What it had written is kept.",
  INTERNAL: "Something went wrong on the server.",
};

const LIMITS = new Set(["RATE_LIMITED", "QUOTA_EXCEEDED", "RATE_LIMIT", "QUOTA", "HTTP_429"]);

/** `remainingMs`: until the limit lets the user write again; null if that is not known. */
export function sentence({ code, message }: Failure, remainingMs: number | null = null): string {
  if (LIMITS.has(code)) return limitReached(remainingMs);
  return SENTENCES[code] ?? (message || "Something went wrong.");
}

function limitReached(remainingMs: number | null): string {
  if (remainingMs === null) return "You have reached your limit. Please try again later.";
  if (remainingMs <= 0) return "You had reached your limit. You can write again now.";
  return `You have reached your limit. You can write again in ${duration(remainingMs)}.`;
}

/** "12 s", "3 min", "2 h": rounded up, so that the time is never too short. */
export function duration(ms: number): string {
  const seconds = Math.ceil(ms / 1000);
  if (seconds < 120) return `${seconds} s`;
  const minutes = Math.ceil(seconds / 60);
  return minutes < 120 ? `${minutes} min` : `${Math.ceil(minutes / 60)} h`;
}

/** Why an answer ended before it was complete; empty for one that is complete. */
export function ended(reason: string): string {
  switch (reason) {
    case "CANCELLED":
      return "Stopped.";
    case "ORPHANED":
      return "Stopped, because nobody was reading.";
    case "INTERRUPTED":
      return "Stopped by a newer question.";
    case "TIME_LIMIT":
      return "Stopped at the time limit.";
    case "MAX_TOKENS":
    case "LENGTH":
      return "The answer has reached its greatest length.";
    case "CONTENT_FILTER":
      return "The rest of this answer was withheld by the model's content filter.";
    default:
      return "";
  }
}
