/** Without a server: the client reports it at once, stops after 5 seconds, and words the error itself. */

import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer, type AddressInfo, type Socket } from "node:net";
import { test } from "node:test";
import { Client, Unavailable, type ReplyStream } from "../src/index.js";
import { Scripted, finished, text } from "./scripted.js";

const FOR_EVER = { firstMs: 100, maxMs: 5_000, maxElapsedMs: 600_000 };
const UNKNOWN = "parley.invalid:50051";

const sentence = (address: string): string =>
  `no Parley server at ${address}; start one with \`parley serve\``;

/** An address without a server, or with a peer that accepts connections and sends nothing. */
async function withoutServer(
  how: "refused" | "silent",
  body: (address: string) => Promise<void>,
): Promise<void> {
  const sockets: Socket[] = [];
  const server = createServer((socket) => sockets.push(socket)).listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = `127.0.0.1:${(server.address() as AddressInfo).port}`;
  if (how === "refused") server.close();
  try {
    await body(address);
  } finally {
    for (const socket of sockets) socket.destroy();
    server.close();
  }
}

async function gaveUp(stream: ReplyStream, address: string): Promise<number> {
  const messages: string[] = [];
  await assert.rejects(
    async () => {
      for await (const event of stream) if (event.type === "reconnecting") messages.push(event.error.message);
    },
    (error) => error instanceof Unavailable && error.message === sentence(address) && error.reason === "",
  );
  assert.deepEqual(new Set(messages), new Set(messages.length ? [sentence(address)] : []));
  return messages.length;
}

test("a stream reports a missing server at once and stops after 5 seconds", async () => {
  await withoutServer("refused", async (address) => {
    using client = new Client(address, { backoff: FOR_EVER });
    assert.ok((await gaveUp(client.streamReply("Hi"), address)) >= 3);
  });
});

test("a name that does not resolve is reported as a missing server", async () => {
  using client = new Client(UNKNOWN, { backoff: FOR_EVER });
  await gaveUp(client.streamReply("Hi"), UNKNOWN);
});

test("a call stops after 5 seconds", async () => {
  await withoutServer("refused", async (address) => {
    using client = new Client(address, { backoff: FOR_EVER });
    await assert.rejects(client.models(), { name: "Unavailable", message: sentence(address) });
  });
});

test("a peer that sends nothing is reported as a missing server", async () => {
  await withoutServer("silent", async (address) => {
    using client = new Client(address, { backoff: FOR_EVER, callTimeoutMs: 60_000 });
    await assert.rejects(client.models(), { name: "Unavailable", message: sentence(address) });
  });
});

test("with TLS the error mentions the certificate", async () => {
  await withoutServer("refused", async (address) => {
    using client = new Client(address, { tls: true, backoff: { maxElapsedMs: 0 } });
    await assert.rejects(client.models(), {
      message: `${sentence(address)}; with TLS, the client must trust its certificate`,
    });
  });
});

test("a server that was reached before gets the whole backoff, and the error has its address", async () => {
  const server = await Scripted.start();
  const { address } = server;
  server.log = [text(1, "Hello"), finished(2)];
  using client = new Client(address, { backoff: { firstMs: 300, maxMs: 300, maxElapsedMs: 6_000 } });
  for await (const _ of client.streamReply("Hi"));
  await server[Symbol.asyncDispose]();
  const began = performance.now();
  await assert.rejects(client.actingFor("ben").getReply("r"), {
    name: "Unavailable",
    message: `the Parley server at ${address} cannot be reached`,
  });
  assert.ok(performance.now() - began > 5_300, "it has not given up after 5 seconds");
});
