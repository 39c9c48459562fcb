/** What every wire tells the page about one reply, in the same words whatever the backend's own events are. */
export type ReplyEvent =
  | { type: "accepted" }
  /** Page routes only. With `after` 0 the text is sent again from its beginning. */
  | { type: "reply"; replyId: string; messageId: string; after: number }
  | { type: "text"; text: string; sequence?: number }
  /** Replaces the whole text. */
  | { type: "snapshot"; text: string; sequence?: number }
  /** The backend reconnects to Parley. */
  | { type: "waiting"; attempt: number; delayMs: number }
  | Finished
  | Failed;

export interface Finished {
  type: "finished";
  reason: string;
  cancelReason?: string;
  model?: string;
  inputTokens?: number;
  outputTokens?: number;
  costUsd?: number | null;
  messageId?: string;
}

export interface Failed {
  type: "failed";
  failure: Failure;
  messageId?: string;
}

export interface Failure {
  /** A sentence of the backend, or of this page. */
  message: string;
  /** An error code of the backend, such as `RATE_LIMITED`, or one of this page, such as `NETWORK_ERROR`. */
  code: string;
  retryable: boolean;
  retryAfterMs: number | null;
}

export interface Picture {
  mimeType: string;
  /** Base64 without a prefix. */
  data: string;
}

export interface Question {
  conversationId: string;
  text: string;
  pictures: Picture[];
  /** The `Idempotency-Key`: the same question sent twice starts one reply. */
  requestId: string;
  /** Whether the answer is shown as it is written. */
  streaming: boolean;
  /** The alias of a model; the backend's default without one. */
  model?: string;
}

export type OnEvent = (event: ReplyEvent) => void;

/** One way to send a question. There is one per product; the rest of the page knows only this. */
export interface Wire {
  /** Whether an answer grows on the page even if the question says `streaming: false`. */
  readonly growsWithoutStreaming?: boolean;
  /**
   * Sends the question and reports the reply's events, the last of which is `finished` or `failed`.
   * Rejects with a `Fault`: kind `refused` if nothing was started, `cut` if the outcome is unknown, `fatal` otherwise.
   */
  send(question: Question, onEvent: OnEvent, signal: AbortSignal): Promise<void>;
  /** A new id, in the form that this product expects. */
  newConversationId(): string;
}

export function failure(code: string, message: string, more: Partial<Failure> = {}): Failure {
  return { code, message, retryable: false, retryAfterMs: null, ...more };
}
