/** The routes of the product. */

import type { Client } from "@parley/client";
import {
  Refused,
  ensureConversation,
  errors,
  idempotencyKey,
  notFound,
  pageFiles,
  pageRoutes,
  refuseOthers,
  requiredText,
  sendReply,
  type ReplyEvents,
} from "@parley/client/express";
import type { Quota } from "@parley/client/v1";
import express, { type Express, type Request } from "express";
import type { Tokens } from "./tokens.js";

export interface Settings {
  /** Whether anybody may sign in with a name, to try the product. */
  readonly demoLogin: boolean;
  /** The folder of the built page. */
  readonly page: string;
}

/** How much of a conversation the model sees. */
const CONTEXT = { maxMessages: 10 };

const EVENTS: ReplyEvents = {
  text: ({ text }) => ({ type: "chunk", content: text }),
  finished: () => ({ type: "done" }),
  failed: ({ message, error, code, retryable }) => ({ type: "error", message, error, code, retryable }),
};

export function createApp(client: Client, tokens: Tokens, { demoLogin, page }: Settings): Express {
  const app = express();
  const endUser = (req: Request) => tokens.userOf(req.get("authorization"));
  app.disable("x-powered-by");
  app.use(express.json({ limit: "256kb" }));

  app.post("/api/ai/chat/stream", async (req, res) => {
    const user = client.actingFor(await endUser(req));
    const conversationId = requiredText(req.body, "conversationId");
    const text = requiredText(req.body, "message");
    await ensureConversation(user, { id: conversationId, context: CONTEXT }, { question: text });
    // Parley checks the quota before it asks the model, and stores the question before the first event.
    const requestId = idempotencyKey(req.headers);
    await sendReply(res, user.streamReply({ conversationId, text, requestId }), EVENTS);
  });

  app.get("/api/ai/quota", async (req, res) => {
    const quotas = await client.actingFor(await endUser(req)).quotas();
    res.json({ quotas: quotas.map(quotaJson) });
  });

  app.post("/api/login", async (req, res) => {
    if (!demoLogin) throw new Refused(404);
    const name = requiredText(req.body, "name");
    if (!/^[\w.-]{1,64}$/.test(name))
      throw new Refused(400, "A name has 1 to 64 letters, digits, _, - and dots.");
    res.json(await tokens.issue(name));
  });

  app.all("/api/ai/chat/stream", (req) => refuseOthers(req.method, ["POST"]));
  app.all("/api/ai/quota", (req) => refuseOthers(req.method, ["GET", "HEAD"]));
  app.all("/api/login", (req) => refuseOthers(req.method, ["POST"]));

  const login = demoLogin ? "demo" : "token";
  const config = { wire: "chunks", login, images: false, title: "Chat" } as const;
  app.use("/api/page", pageRoutes({ client, config, endUser }));
  app.use(pageFiles(page));
  app.use(notFound);
  app.use(errors);
  return app;
}

function quotaJson({ name, limit, used, resetTime }: Quota) {
  const reset_time = resetTime ? new Date(Number(resetTime.seconds) * 1_000).toISOString() : null;
  return { name, limit: Number(limit), used: Number(used), reset_time };
}
