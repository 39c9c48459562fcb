import type { PageApi } from "../api/page";
import type { Question, Wire } from "../wire/events";
import type { Start } from "./follow";

/** Sends a question. `known` are the ids of the messages before it; `onTaken` is called once. */
export function sending(
  wire: Wire,
  question: Question,
  known: ReadonlySet<string>,
  onTaken: () => void,
): Start {
  let taken = false;
  return {
    run: (onEvent, signal) =>
      wire.send(
        question,
        (event) => {
          if (!taken) onTaken();
          taken = true;
          onEvent(event);
        },
        signal,
      ),
    arrived: (stored) =>
      stored.some(({ id, role, text }) => role === "user" && text === question.text && !known.has(id)),
  };
}

/** Replaces an answer. It has arrived once the stored conversation ends with another one. */
export function retrying(api: PageApi, conversationId: string, messageId: string, requestId: string): Start {
  return {
    run: (onEvent, signal) => api.retry(conversationId, messageId, requestId, onEvent, signal),
    arrived: (stored) => stored.at(-1)?.id !== messageId,
  };
}

/** Joins a reply that runs already. */
export function attaching(api: PageApi, conversationId: string): Start {
  return {
    run: (onEvent, signal) => api.attach(conversationId, { replyId: "", after: 0 }, onEvent, signal),
    arrived: () => true,
  };
}
