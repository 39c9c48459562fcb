import type { Question, ReplyEvent, Wire } from "../src/wire/events";
import { Fault } from "../src/wire/fault";

export const QUESTION: Question = {
  conversationId: "conversation-1",
  text: "What is a lease?",
  pictures: [],
  requestId: "request-1",
  streaming: true,
};

export interface Result {
  events: ReplyEvent[];
  /** The text that the events make. */
  text: string;
  fault: Fault | null;
}

export async function collect(
  wire: Wire,
  question: Partial<Question> = {},
  signal?: AbortSignal,
): Promise<Result> {
  const events: ReplyEvent[] = [];
  let fault: Fault | null = null;
  try {
    const abort = signal ?? new AbortController().signal;
    await wire.send({ ...QUESTION, ...question }, (event) => events.push(event), abort);
  } catch (error) {
    if (!(error instanceof Fault)) throw error;
    fault = error;
  }
  return { events, text: textOf(events), fault };
}

function textOf(events: ReplyEvent[]): string {
  let text = "";
  for (const event of events) {
    if (event.type === "text") text += event.text;
    if (event.type === "snapshot") text = event.text;
  }
  return text;
}
