import type { Failure, Finished, ReplyEvent } from "../wire/events";

export type Phase = "connecting" | "thinking" | "writing" | "reconnecting";

/** What the page shows of a running reply. */
export interface LiveView {
  key: string;
  phase: Phase;
  text: string;
  /** Whether the text is shown only when it is whole. */
  hold: boolean;
  stopping: boolean;
  /** When the next attempt to reconnect begins, in milliseconds since 1970; null while one is under way. */
  nextAttemptMs: number | null;
}

export type Ending =
  | { kind: "finished"; event: Finished }
  | { kind: "failed"; failure: Failure; messageId: string }
  /** Nothing was started. */
  | { kind: "refused"; failure: Failure; status: number }
  /** The reply ended while the page was not connected: its stored messages have the result. */
  | { kind: "settled" };

export function liveView(key: string, hold: boolean): LiveView {
  return { key, phase: "connecting", text: "", hold, stopping: false, nextAttemptMs: null };
}

/**
 * Applies a reply's events to its view. After a reconnect that sends the text again, the text already shown stays until the new
 * one is as long, so that it does not flicker.
 */
export class LiveText {
  replyId = "";
  sequence = 0;
  accepted = false;
  ending: Ending | null = null;
  private incoming = "";

  constructor(private readonly view: LiveView) {}

  /** To be called before the reply is sent again from its beginning. */
  restart(): void {
    this.replyId = "";
    this.sequence = 0;
    this.incoming = "";
  }

  readonly apply = (event: ReplyEvent): void => {
    this.accepted = true;
    switch (event.type) {
      case "accepted":
        return this.connected();
      case "reply":
        return this.begin(event);
      case "text":
        return this.grow(this.incoming + event.text, event.sequence);
      case "snapshot":
        this.view.text = "";
        return this.grow(event.text, event.sequence);
      case "waiting":
        this.view.phase = "reconnecting";
        this.view.nextAttemptMs = Date.now() + event.delayMs;
        return;
      default:
        this.end(event);
    }
  };

  private connected(): void {
    this.view.nextAttemptMs = null;
    this.view.phase = this.view.text ? "writing" : "thinking";
  }

  private begin({ replyId, after }: Extract<ReplyEvent, { type: "reply" }>): void {
    if (after === 0) this.restart();
    this.replyId = replyId;
    this.sequence = after;
    this.connected();
  }

  private grow(text: string, sequence: number | undefined): void {
    this.incoming = text;
    this.sequence = sequence ?? this.sequence;
    if (text.length >= this.view.text.length) this.view.text = text;
    this.connected();
  }

  private end(event: Extract<ReplyEvent, { type: "finished" | "failed" }>): void {
    if (event.type === "finished") this.ending = { kind: "finished", event };
    else if (event.failure.code === "TEXT_REPLACED") this.ending = { kind: "settled" };
    else this.ending = { kind: "failed", failure: event.failure, messageId: event.messageId ?? "" };
    // A wire without text reports only the end; what was shown before stays until the stored message is read.
    if (this.incoming) this.view.text = this.incoming;
  }
}
