/** Stops a web server without cutting answers in the middle of an event. */

import { once } from "node:events";
import type { Server } from "node:http";
import type { Client } from "../client.js";

const GRACE_MS = 5_000;

/**
 * Stops accepting connections, closes the client, which ends open streams without a last event so that browsers attach
 * again elsewhere, and waits until all answers are sent, for at most 5 seconds.
 */
export async function shutDown(server: Server, client: Client): Promise<void> {
  const closed = once(server, "close");
  server.close();
  client.close();
  // A connection is idle only once its answer has ended, and would then be kept for its next request.
  const idle = setInterval(() => server.closeIdleConnections(), 50);
  const late = setTimeout(() => server.closeAllConnections(), GRACE_MS);
  await closed;
  clearInterval(idle);
  clearTimeout(late);
}
