import type { PageApi } from "../api/page";
import type { Message } from "../api/types";
import type { OnEvent } from "../wire/events";
import { cut, Fault } from "../wire/fault";
import { wait } from "../wire/wait";
import { LiveText, type Ending, type LiveView } from "./live";

export interface Start {
  /** Sends the question, repeats an answer, or attaches to a running one. */
  run: (onEvent: OnEvent, signal: AbortSignal) => Promise<unknown>;
  /** Whether the stored messages show that the backend has received it. */
  arrived: (messages: Message[]) => boolean;
}

const FIRST_DELAY_MS = 500;
const LONGEST_DELAY_MS = 8_000;
const UNREADABLE_ATTEMPTS = 3;

/**
 * Follows one reply to its end, whatever happens to the connections. After a cut it attaches by the page routes, with growing
 * delays and without a limit of attempts; if the question never arrived, it is sent again with the same `Idempotency-Key`.
 */
export class Follow {
  private readonly text: LiveText;
  private attempt = new AbortController();
  private wakeUp: () => void = () => undefined;
  private failures = 0;
  private unreadable = 0;

  constructor(
    private readonly api: PageApi,
    private readonly conversationId: string,
    private readonly view: LiveView,
    private readonly signal: AbortSignal,
    private readonly firstDelayMs = FIRST_DELAY_MS,
  ) {
    this.text = new LiveText(view);
  }

  /** Whether the backend is known to have accepted the question. */
  get accepted(): boolean {
    return this.text.accepted;
  }

  /** Connects again at once, such as when the network is back. */
  reconnect(): void {
    this.failures = 0;
    this.attempt.abort(cut());
    this.wakeUp();
  }

  /** Rejects only with the reason of `signal`. */
  async run(start: Start): Promise<Ending> {
    let attached = false;
    for (;;) {
      try {
        await (attached ? this.attach() : this.begin(start));
        if (this.text.ending) return this.text.ending;
        if (await this.settled(start)) return { kind: "settled" };
        attached = false;
      } catch (error) {
        const ending = this.judge(error, attached);
        if (ending) return ending;
        attached = true;
        await this.pause(error);
      }
    }
  }

  private begin(start: Start): Promise<unknown> {
    this.text.restart();
    return start.run(this.onEvent, this.scope());
  }

  private attach(): Promise<unknown> {
    const position = { replyId: this.text.replyId, after: this.text.sequence };
    return this.api
      .attach(this.conversationId, position, this.onEvent, this.scope())
      .catch(notFoundIsNothing);
  }

  private readonly onEvent: OnEvent = (event) => {
    this.failures = 0;
    if (event.type !== "accepted") this.unreadable = 0;
    this.text.apply(event);
  };

  private scope(): AbortSignal {
    this.attempt = new AbortController();
    return AbortSignal.any([this.attempt.signal, this.signal]);
  }

  /** Nothing runs: either the reply is over, or the question has not arrived. */
  private async settled(start: Start): Promise<boolean> {
    const page = await this.api.messages(this.conversationId);
    return page !== null && start.arrived(page.messages);
  }

  /** The ending that an error means; null to try again. */
  private judge(error: unknown, attached: boolean): Ending | null {
    if (this.signal.aborted) throw this.signal.reason;
    if (!(error instanceof Fault)) throw error;
    const { kind, failure, status } = error;
    if (kind === "fatal") return { kind: "failed", failure, messageId: "" };
    if (failure.code === "PARSE_ERROR" && ++this.unreadable >= UNREADABLE_ATTEMPTS) {
      return { kind: "failed", failure, messageId: "" };
    }
    const passing = status >= 500 || status === 429;
    if (kind === "refused" && !(passing && (attached || this.failures > 0))) return { kind, failure, status };
    return null;
  }

  private async pause(error: unknown): Promise<void> {
    const growing = Math.min(this.firstDelayMs * 2 ** this.failures, LONGEST_DELAY_MS);
    const asked = error instanceof Fault ? (error.failure.retryAfterMs ?? 0) : 0;
    // The random part keeps the pages of many users from coming back at the same moment.
    const delayMs = Math.max(asked, growing * (0.75 + Math.random() / 2));
    this.failures += 1;
    this.view.phase = "reconnecting";
    this.view.nextAttemptMs = Date.now() + delayMs;
    const woken = new Promise<void>((resolve) => (this.wakeUp = resolve));
    const rest = new AbortController();
    const waited = wait(delayMs, AbortSignal.any([rest.signal, this.signal]));
    waited.catch(() => undefined);
    await Promise.race([waited, woken]);
    rest.abort();
    this.view.nextAttemptMs = null;
  }
}

function notFoundIsNothing(error: unknown): "nothing" {
  if (error instanceof Fault && error.status === 404) return "nothing";
  throw error;
}
