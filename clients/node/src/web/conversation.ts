/** Conversations that are made at their first use. */

import type { MessageInitShape } from "@bufbuild/protobuf";
import type { Client } from "../client.js";
import type { CallOptions } from "../connection.js";
import { AlreadyExists } from "../errors.js";
import type { ConversationSchema } from "../gen/parley/v1/resources_pb.js";

const TITLE_LENGTH = 60;

/**
 * Makes a conversation with a chosen id, if it does not exist. Without a title, `question` gives it one.
 *
 * A conversation that exists stays as it is. If it is another user's, the reply is refused as NOT_FOUND.
 */
export async function ensureConversation(
  client: Client,
  conversation: MessageInitShape<typeof ConversationSchema> & { readonly id: string },
  { question = "", signal }: CallOptions & { question?: string | undefined } = {},
): Promise<void> {
  const title = conversation.title || titleOf(question);
  const requestId = `conversation:${conversation.id}`;
  try {
    await client.conversations.create({ ...conversation, title }, { requestId, signal });
  } catch (error) {
    // RequestIdReused comes from the second question, whose title is another one.
    if (!(error instanceof AlreadyExists)) throw error;
  }
}

/** The first 60 characters of the first question, on one line: titles have no control characters. */
export function titleOf(question: string): string {
  const line = question.replace(/[\p{Cc}\p{Cs}\s]+/gu, " ").trim();
  return [...line].slice(0, TITLE_LENGTH).join("").trim();
}
