/** Counters of the product, for Prometheus. */

import type { ReplyEnd } from "@parley/client/fastify";
import { Counter, Histogram, Registry } from "prom-client";

export class Metrics {
  readonly registry = new Registry();
  readonly #starts = this.#counter("chat_stream_starts_total", "Streams that began with an event");
  readonly #ends = this.#counter("chat_stream_ends_total", "Streams of answers that ended", "finish_reason");
  readonly #errors = this.#counter("chat_stream_errors_total", "Streams that were refused or failed", "code");
  readonly #disconnects = this.#counter("chat_stream_disconnects_total", "Streams that the browser left");
  readonly #fallbacks = this.#counter("chat_fallbacks_total", "Plain answers instead of streams");
  readonly #seconds = new Histogram({
    name: "chat_stream_duration_seconds",
    help: "Time from the request to the end of its stream",
    buckets: [0.5, 1, 2, 5, 10, 20, 60, 120, 300, 600],
    registers: [this.registry],
  });

  started(): void {
    this.#starts.inc();
  }

  ended(end: ReplyEnd, durationMs: number): void {
    this.#seconds.observe(durationMs / 1_000);
    if (end.type === "finished") this.#ends.inc({ finish_reason: end.event.reason.toLowerCase() });
    else if (end.type === "failed") this.refused(end.failure.code);
    else if (end.type === "left") this.#disconnects.inc();
  }

  refused(code: string): void {
    this.#errors.inc({ code });
  }

  fellBack(): void {
    this.#fallbacks.inc();
  }

  #counter(name: string, help: string, ...labelNames: string[]): Counter {
    return new Counter({ name, help, labelNames, registers: [this.registry] });
  }
}
