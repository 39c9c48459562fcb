/** The app in its own process with a real Parley server, tested over HTTP. */

import assert from "node:assert/strict";
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer, type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import type { Readable } from "node:stream";
import { after, before, test } from "node:test";
import { setTimeout } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { Client } from "@parley/client";
import { FinishReason } from "@parley/client/v1";

interface ServerSentEvent {
  id: string;
  event: string;
  data: Record<string, unknown>;
}

const ROOT = fileURLToPath(new URL("../../", import.meta.url));
const PARLEY = process.env["PARLEY_BIN"] ?? join(ROOT, "../../.venv/bin/parley");
const folder = mkdtempSync(join(tmpdir(), "parley-express-"));
const children: ChildProcess[] = [];
let client: Client;
let url = "";

before(async () => {
  const address = `127.0.0.1:${await freePort()}`;
  await start(PARLEY, ["serve"], "stderr", /Parley serves on/, {
    PARLEY_LISTEN: address,
    PARLEY_METRICS_LISTEN: "",
    PARLEY_DATABASE_URL: `sqlite+aiosqlite:///${folder}/parley.db`,
  });
  client = new Client(address);
  const app = { PARLEY_ADDRESS: address, PORT: "0" };
  url = await start(process.execPath, [join(ROOT, "build/src/main.js")], "stdout", /^http:/, app);
});

after(async () => {
  client.close();
  for (const child of children.reverse()) {
    if (child.exitCode === null && child.kill()) await once(child, "exit");
  }
  rmSync(folder, { recursive: true });
});

/** Starts a process and returns the line that reports that it is ready. */
async function start(
  command: string,
  args: string[],
  output: "stdout" | "stderr",
  ready: RegExp,
  env: Record<string, string>,
): Promise<string> {
  const child = spawn(command, args, { cwd: folder, env: { ...process.env, PARLEY_BIN: undefined, ...env }, stdio: "pipe" });
  children.push(child);
  child[output === "stdout" ? "stderr" : "stdout"].pipe(process.stderr);
  return await new Promise((resolve, reject) => {
    createInterface({ input: child[output] as Readable }).on(
      "line",
      (line) => ready.test(line) && resolve(line),
    );
    child.once("exit", (status) => reject(new Error(`${command} ended with ${status}`)));
  });
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  return port;
}

function script(fields: Record<string, unknown>): string {
  return `/script ${JSON.stringify(fields)}`;
}

function post(path: string, body: Record<string, unknown>, init: RequestInit = {}): Promise<Response> {
  const headers = {
    "content-type": "application/json",
    ...(init.headers as Record<string, string> | undefined),
  };
  return fetch(url + path, { ...init, method: "POST", headers, body: JSON.stringify(body) });
}

async function* events(response: Response): AsyncGenerator<ServerSentEvent> {
  assert.equal(response.headers.get("content-type"), "text/event-stream");
  let rest = "";
  for await (const piece of response.body!.pipeThrough(new TextDecoderStream())) {
    const blocks = (rest + piece).split("\n\n");
    rest = blocks.pop()!;
    for (const block of blocks) {
      const fields = Object.fromEntries(
        block.split("\n").map((line) => line.split(/: (.*)/s, 2) as [string, string]),
      );
      yield {
        id: fields["id"] ?? "",
        event: fields["event"] ?? "",
        data: JSON.parse(fields["data"] ?? "null"),
      };
    }
  }
}

async function all(response: Response): Promise<ServerSentEvent[]> {
  const found: ServerSentEvent[] = [];
  for await (const event of events(response)) found.push(event);
  return found;
}

function text(found: ServerSentEvent[]): string {
  return found.map(({ event, data }) => (event === "chunk" ? data["text"] : "")).join("");
}

test("the page is served", async () => {
  assert.match(await (await fetch(url)).text(), /EventSource/);
});

test("a reply streams, by POST and by GET", async () => {
  const question = { text: script({ text: "a 🙂 c", delay_s: 0.01 }), requestId: "r1" };
  const found = await all(await post("/chat", question));
  assert.equal(text(found), "a 🙂 c");
  assert.deepEqual(
    [found[0]?.event, found.at(-1)?.event, found.at(-1)?.data],
    ["accepted", "done", { reason: "STOP" }],
  );
  assert.match(found.at(-1)?.id ?? "", /^[\w-]+:\d+$/);
  const again = await all(await fetch(`${url}/chat?${new URLSearchParams(question)}`));
  assert.deepEqual([text(again), again.at(-1)?.id], ["a 🙂 c", found.at(-1)?.id]);
});

test("Last-Event-ID resumes after its event", async () => {
  const found = await all(await post("/chat", { text: script({ text: "a b c d e", delay_s: 0.03 }) }));
  const third = found.findIndex(({ event }) => event === "chunk") + 1;
  const rest = await all(await fetch(`${url}/chat`, { headers: { "last-event-id": found[third]!.id } }));
  assert.equal(text(found.slice(0, third + 1)) + text(rest), "a b c d e");
  assert.equal(rest.at(-1)?.event, "done");
});

test("failures and refusals are events with a reason", async () => {
  const fault = { kind: "error", after: 2, reason: "PROVIDER_TRUNCATED" };
  const failed = await all(await post("/chat", { text: script({ text: "a b c", delay_s: 0, fault }) }));
  assert.equal(text(failed), "a b ");
  assert.deepEqual([failed.at(-1)?.event, failed.at(-1)?.data["reason"]], ["error", "PROVIDER_TRUNCATED"]);
  const refused = await all(await post("/chat", {}));
  assert.deepEqual(
    refused.map(({ event, data }) => [event, data["reason"]]),
    [["error", "INVALID_REQUEST"]],
  );
});

test("stop cancels a running reply, and one that has not started", async () => {
  const response = await post("/chat", {
    text: script({ text: "word ", repeat: 10_000, delay_s: 0.01 }),
    requestId: "endless",
  });
  const found: ServerSentEvent[] = [];
  for await (const event of events(response)) {
    found.push(event);
    if (event.event !== "chunk" || text(found).length > 5) continue;
    assert.deepEqual(await (await post("/stop", { requestId: "endless" })).json(), {
      finishReason: FinishReason.CANCELLED,
    });
  }
  assert.deepEqual(found.at(-1)?.data, { reason: "CANCELLED" });
  assert.equal((await post("/stop", { requestId: "early" })).status, 202);
  const early = await all(await post("/chat", { text: "Hi", requestId: "early" }));
  assert.deepEqual(early.at(-1)?.data, { reason: "CANCELLED" });
});

test("when the browser leaves, the call and the reply end", async () => {
  const browser = new AbortController();
  const response = await post(
    "/chat",
    { text: script({ text: "word ", repeat: 10_000, delay_s: 0.01 }) },
    { signal: browser.signal },
  );
  const { value } = await events(response).next();
  const { conversationId } = (value as ServerSentEvent).data;
  browser.abort();
  // `onDisconnect: "cancel"` leaves 10 s for a reconnect. A GetReply would count as a reader.
  const giveUp = performance.now() + 20_000;
  while ((await client.conversations.get(String(conversationId))).activeReplyId) {
    assert.ok(performance.now() < giveUp, "the reply still runs");
    await setTimeout(200);
  }
  const [message] = (await client.conversations.messages(String(conversationId)).next()).value!.parts;
  assert.match(String(message?.content.value), /^(word )+$/);
});
