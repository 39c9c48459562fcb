import { failure, type Failure, type OnEvent, type ReplyEvent } from "./events";
import { cut, Fault } from "./fault";

/**
 * Passes a reply's events to the caller of a wire. Each wire makes one per question, so that all of them check the callback,
 * deliver nothing after the last event, and report a stream that ends without one.
 */
export class Report {
  private over = false;

  constructor(private readonly onEvent: OnEvent) {
    if (typeof onEvent !== "function") {
      throw new Fault("fatal", failure("INVALID_CALLBACK", "onEvent has to be a function."));
    }
  }

  readonly accepted = (): void => this.event({ type: "accepted" });

  text(text: unknown): void {
    if (typeof text === "string" && text !== "") this.event({ type: "text", text });
  }

  failed(given: Failure): void {
    this.event({ type: "failed", failure: given });
  }

  event(event: ReplyEvent): void {
    if (this.over) return;
    this.over = event.type === "finished" || event.type === "failed";
    try {
      this.onEvent(event);
    } catch (error) {
      const cause = error instanceof Error ? error.message : String(error);
      throw new Fault(
        "fatal",
        failure("CALLBACK_ERROR", `A part of the answer could not be shown: ${cause}`),
      );
    }
  }

  /** To be called when the body has ended. */
  end(): void {
    if (!this.over) throw cut();
  }
}
