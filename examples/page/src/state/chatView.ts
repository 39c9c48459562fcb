import type { Failure, Picture } from "../wire/events";
import type { Item } from "./items";
import type { LiveView } from "./live";

/** A question that the backend has not taken, and why. */
export interface Unsent {
  key: string;
  requestId: string;
  text: string;
  pictures: Picture[];
}

export interface Trouble {
  failure: Failure;
  /** When `retry_after` of the failure is over, in milliseconds since 1970. */
  againMs: number | null;
}

export interface ChatView {
  /** Null until the first question of a new conversation. */
  id: string | null;
  items: Item[];
  live: LiveView | null;
  unsent: Unsent | null;
  trouble: Trouble | null;
  loading: boolean;
  /** Whether the conversation does not exist, or belongs to somebody else. */
  missing: boolean;
  olderToken: string | null;
  /** A question for the text area: one that was not taken and shall be edited or sent later. */
  returned: Unsent | null;
}

export interface ChatOptions {
  streaming: () => boolean;
  model: () => string;
  /** After a question was taken, and after an answer has ended. */
  onChange: (conversationId: string) => void;
  /** A new conversation has received its id. */
  onCreated: (conversationId: string) => void;
}

export function emptyView(id: string | null): ChatView {
  return {
    id,
    items: [],
    live: null,
    unsent: null,
    trouble: null,
    loading: false,
    missing: false,
    olderToken: null,
    returned: null,
  };
}
