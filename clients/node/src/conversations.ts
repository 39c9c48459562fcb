/** Calls on conversations. They return the messages of `parley.v1`, and throw ParleyErrors. */

import { randomUUID } from "node:crypto";
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import type { CallOptions } from "./client.js";
import type { Connection } from "./connection.js";
import {
  Conversations as Service,
  ListConversationsRequestSchema,
  ListMessagesRequestSchema,
} from "./gen/parley/v1/conversations_pb.js";
import type {
  Conversation,
  ConversationSchema,
  Image,
  Message,
  MessageSchema,
} from "./gen/parley/v1/resources_pb.js";

type ConversationFields = MessageInitShape<typeof ConversationSchema>;

/** What a caller may change in a conversation. */
export type ConversationField =
  "title" | "system" | "postSystem" | "model" | "context" | "labels" | "headMessageId";

/** The caller's conversations: those of its end user, or of the whole tenant where it names none. */
export class Conversations {
  readonly #connection: Connection;

  /** @internal Use `client.conversations`. */
  constructor(connection: Connection) {
    this.#connection = connection;
  }

  /** Creates a conversation that begins with `messages`, oldest first; a repeated `requestId` returns it. */
  create(
    conversation: ConversationFields = {},
    options: CallOptions & {
      messages?: readonly MessageInitShape<typeof MessageSchema>[] | undefined;
      requestId?: string | undefined;
    } = {},
  ): Promise<Conversation> {
    const { messages = [], requestId, signal } = options;
    const request = { conversation, messages: [...messages], requestId: requestId || randomUUID() };
    return this.#connection.unary(Service.method.createConversation, request, { signal });
  }

  /** The conversation; its `activeReplyId` is a reply to resume. */
  get(conversationId: string, { signal }: CallOptions = {}): Promise<Conversation> {
    return this.#connection.unary(Service.method.getConversation, { conversationId }, { signal });
  }

  /** All conversations whose title contains the words and whose labels match, newest activity first. */
  async *list(
    options: CallOptions & {
      query?: string | undefined;
      labels?: Readonly<Record<string, string>> | undefined;
      pageSize?: number | undefined;
    } = {},
  ): AsyncGenerator<Conversation, void, undefined> {
    const { signal, ...fields } = options;
    const request = create(ListConversationsRequestSchema, fields);
    do {
      const page = await this.#connection.unary(Service.method.listConversations, request, { signal });
      yield* page.conversations;
      request.pageToken = page.nextPageToken;
    } while (request.pageToken);
  }

  /**
   * Changes the named `fields`, or those that are set. Its `etag`, where set, must be the newest. It is not repeated
   * after a cut, since it may overwrite what another caller has written meanwhile.
   */
  update(
    conversation: ConversationFields,
    { fields = [], signal }: CallOptions & { fields?: readonly ConversationField[] | undefined } = {},
  ): Promise<Conversation> {
    const paths = fields.map((field) => field.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`));
    const request = { conversation, updateMask: { paths } };
    return this.#connection.unary(Service.method.updateConversation, request, { repeatable: false, signal });
  }

  /** Erases the conversation with all that is in it; a running reply is cancelled first. */
  async delete(
    conversationId: string,
    { etag = "", signal }: CallOptions & { etag?: string | undefined } = {},
  ): Promise<void> {
    await this.#connection.unary(Service.method.deleteConversation, { conversationId, etag }, { signal });
  }

  /** The messages of a branch, by default of the one that is shown, newest first. */
  async *messages(
    conversationId: string,
    options: CallOptions & {
      leafMessageId?: string | undefined;
      allBranches?: boolean | undefined;
      pageSize?: number | undefined;
    } = {},
  ): AsyncGenerator<Message, void, undefined> {
    const { signal, ...fields } = options;
    const request = create(ListMessagesRequestSchema, { conversationId, ...fields });
    do {
      const page = await this.#connection.unary(Service.method.listMessages, request, { signal });
      yield* page.messages;
      request.pageToken = page.nextPageToken;
    } while (request.pageToken);
  }

  /** An image with its bytes. */
  image(imageId: string, { signal }: CallOptions = {}): Promise<Image> {
    return this.#connection.unary(Service.method.getImage, { imageId }, { signal });
  }
}
