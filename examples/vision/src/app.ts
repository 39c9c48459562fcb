/** The routes of the product. */

import type { Client, ReplyFields, ReplyStream } from "@parley/client";
import {
  Refused,
  ensureConversation,
  errors,
  idempotencyKey,
  notFound,
  pageFiles,
  pageRoutes,
  refusal,
  requiredText,
  sendReply,
  wholeReply,
} from "@parley/client/fastify";
import fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from "fastify";
import { answerJson, eventsSince } from "./events.js";
import { Metrics } from "./metrics.js";
import { conversationOf, fieldsOf, questionOf } from "./question.js";
import type { Tokens } from "./tokens.js";

export interface Settings {
  /** Whether anybody may sign in with a name, to try the product. */
  readonly demoLogin: boolean;
  /** The folder of the built page. */
  readonly page: string;
  readonly logLevel: string;
}

const BODY_BYTES = 3 * 1024 * 1024;
const PREFIXES = ["/api/ai", "/api/v1"];

export async function createApp(
  client: Client,
  tokens: Tokens,
  settings: Settings,
): Promise<FastifyInstance> {
  const { demoLogin, page, logLevel } = settings;
  const metrics = new Metrics();
  const app = fastify({ bodyLimit: BODY_BYTES, frameworkErrors: errors, logger: { level: logLevel } });
  const endUser = (request: FastifyRequest) => tokens.userOf(request.headers.authorization);
  app.setErrorHandler(errors);
  app.setNotFoundHandler(notFound);

  async function open({ headers, body }: FastifyRequest, user: string): Promise<ReplyStream> {
    const question = questionOf(body, user);
    const asked = client.actingFor(user);
    const stream = streamOf(asked, { ...fieldsOf(question), requestId: idempotencyKey(headers) });
    await ensureConversation(asked, conversationOf(question), { question: question.prompt });
    return stream;
  }

  async function stream(request: FastifyRequest, reply: FastifyReply): Promise<FastifyReply> {
    const startedMs = performance.now();
    try {
      const answer = await open(request, await endUser(request));
      const events = eventsSince(startedMs, () => metrics.started());
      const end = await sendReply(reply, answer, events);
      const durationMs = performance.now() - startedMs;
      metrics.ended(end, durationMs);
      request.log.info({ end: end.type, durationMs }, "the stream has ended");
    } catch (error) {
      metrics.refused(refusal(error).body.code);
      throw error;
    }
    return reply;
  }

  async function whole(request: FastifyRequest, reply: FastifyReply): Promise<object> {
    const startedMs = performance.now();
    metrics.fellBack();
    const finished = await wholeReply(reply, await open(request, await endUser(request)));
    return finished ? answerJson(finished, startedMs) : reply.hijack();
  }

  for (const prefix of PREFIXES) {
    app.post(`${prefix}/chat-image-stream`, stream);
    app.post(`${prefix}/chat-image`, whole);
  }

  app.post("/api/login", async ({ body }) => {
    if (!demoLogin) throw new Refused(404);
    const name = requiredText(body, "name");
    if (!/^[\w.-]{1,64}$/.test(name))
      throw new Refused(400, "A name has 1 to 64 letters, digits, _, - and dots.");
    return await tokens.issue(name);
  });

  app.get("/metrics", async (_request, reply) =>
    reply.type(metrics.registry.contentType).send(await metrics.registry.metrics()),
  );

  const login = demoLogin ? "demo" : "token";
  const config = { wire: "image", login, images: true, title: "Ask about an image" } as const;
  const retried = () => ({ onDisconnect: "cancel" }) as const;
  await app.register(pageRoutes, { prefix: "/api/page", client, config, endUser, settings: retried });
  await app.register(pageFiles, { folder: page });
  return app;
}

function streamOf(client: Client, fields: ReplyFields): ReplyStream {
  try {
    return client.streamReply(fields);
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    throw new Refused(400, "base64_image must be a PNG, JPEG, WebP or GIF image.");
  }
}
