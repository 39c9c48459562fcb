/** The protocol of the conformance player. */

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, before, test } from "node:test";
import { Parley, ROOT, script } from "./parley.js";

interface PlayerEvent {
  id: string;
  event: string;
  [field: string]: unknown;
}

class Player {
  readonly events: PlayerEvent[] = [];
  readonly #child = spawn(process.execPath, ["--expose-gc", join(ROOT, "build/conformance/player.js")], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  readonly exited = once(this.#child, "exit");
  #heard = (): void => {};

  constructor() {
    createInterface({ input: this.#child.stdout }).on("line", (line) => {
      this.events.push(JSON.parse(line) as PlayerEvent);
      this.#heard();
    });
  }

  send(command: Record<string, unknown> | string): void {
    this.#child.stdin.write(`${typeof command === "string" ? command : JSON.stringify(command)}\n`);
  }

  async event(id: string, event: string): Promise<PlayerEvent> {
    for (;;) {
      const found = this.events.find((each) => each.id === id && each.event === event);
      if (found) return found;
      await new Promise<void>((resolve) => (this.#heard = resolve));
    }
  }

  async ask(command: Record<string, unknown> & { id: string }): Promise<unknown> {
    this.send(command);
    return (await this.event(command.id, "result"))["value"];
  }

  end(): void {
    this.#child.stdin.end();
  }
}

let parley: Parley;
before(async () => (parley = await Parley.start()));
after(() => parley[Symbol.asyncDispose]());

test("nothing remains open after a session", async () => {
  const player = new Player();
  assert.deepEqual(((await player.ask({ id: "idle", op: "stats" })) as { open: unknown }).open, {
    sockets: 0,
  });
  player.send({ id: "c", op: "client", name: "a", address: parley.address });
  const request = { text: script({ text: "a b", delay_s: 0 }), request_id: "r" };
  player.send({ id: "s", op: "stream", client: "a", request });
  await player.event("s", "end");
  const events = player.events.filter(({ id }) => id === "s").map(({ event }) => event);
  assert.equal(events[0], "accepted");
  assert.deepEqual(events.slice(-2), ["finished", "end"]);
  assert.deepEqual(await player.ask({ id: "w", op: "ways" }), ["break", "abort", "close", "dispose"]);
  for (const how of ["break", "abort", "close", "dispose"]) {
    const endless = { text: script({ text: "a", repeat: 10_000, delay_s: 0.01, pieces: "character" }) };
    player.send({ id: how, op: "stream", client: "a", request: endless });
    await player.event(how, "text");
    player.send({ id: `${how}!`, op: "abandon", stream: how, how });
    await player.event(`${how}!`, "abandoned");
    await player.event(how, "end");
  }
  const pulled = { id: "p", op: "stream", client: "a", pull: true, request };
  player.send(pulled);
  player.send({ id: "n", op: "next", stream: "p", count: 1 });
  await player.event("n", "taken");
  assert.deepEqual(
    player.events.filter(({ id }) => id === "p").map(({ event, replayed }) => [event, replayed]),
    [["accepted", true]],
  );
  player.send({ id: "x", op: "abandon", stream: "p", how: "close" });
  await player.event("p", "end");
  const busy = (await player.ask({ id: "busy", op: "stats" })) as { open: Record<string, number> };
  assert.equal(busy.open["sockets"], 1);
  player.send({ id: "u", op: "cancel", client: "a", reply_id: "x", request_id: "y" });
  assert.equal((await player.event("u", "error"))["kind"], "Usage");
  player.send({ id: "cc", op: "close_client", name: "a" });
  await player.event("cc", "closed");
  // The end of the call reaches the server a moment later.
  for (let i = 0; ; i++) {
    const { open } = (await player.ask({ id: `end${i}`, op: "stats" })) as { open: unknown };
    if (JSON.stringify(open) === '{"sockets":0}') break;
    assert.ok(i < 200, JSON.stringify(open));
  }
  player.send({ id: "e", op: "exit" });
  assert.deepEqual(await player.exited, [0, null]);
});

test("it exits with 0 at the end of its input, and with 2 after an invalid command", async () => {
  const player = new Player();
  player.end();
  assert.deepEqual(await player.exited, [0, null]);
  for (const line of ["{", '{"id":"x","op":"dance"}']) {
    const confused = new Player();
    confused.send(line);
    assert.deepEqual(await confused.exited, [2, null]);
  }
});
