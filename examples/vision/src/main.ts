/** Reads the environment, serves, and shuts down at SIGTERM. */

import type { AddressInfo } from "node:net";
import { fileURLToPath } from "node:url";
import { Client } from "@parley/client";
import { shutDown } from "@parley/client/fastify";
import { createApp } from "./app.js";
import { Tokens } from "./tokens.js";

const PAGE = fileURLToPath(new URL("../../../page/dist", import.meta.url));
/** A browser hears of a lost Parley after this time; a page then attaches again by itself. */
const PATIENCE_MS = 15_000;

async function main({ env }: NodeJS.Process): Promise<void> {
  const tokens = new Tokens(env["CHAT_JWT_KEY"] ?? "");
  const client = new Client(env["PARLEY_ADDRESS"] || "127.0.0.1:50051", {
    apiKey: env["PARLEY_API_KEY"],
    backoff: { maxElapsedMs: PATIENCE_MS },
  });
  const settings = {
    demoLogin: env["CHAT_DEMO_LOGIN"] === "on",
    page: env["CHAT_PAGE"] || PAGE,
    logLevel: env["LOG_LEVEL"] || "warn",
  };
  const app = await createApp(client, tokens, settings);
  const host = env["HOST"] || "127.0.0.1";
  await app.listen({ port: Number(env["PORT"] || 3000), host });
  console.log(`http://${host}:${(app.server.address() as AddressInfo).port}`);
  for (const signal of ["SIGTERM", "SIGINT"] as const)
    process.once(signal, () => void shutDown(app.server, client));
}

main(process).catch((error: unknown) => {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
});
