/** Calls that are one call of the contract each. They return the messages of `parley.v1`, and throw ParleyErrors. */

import { randomUUID } from "node:crypto";
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import type { CallOptions, Connection } from "./connection.js";
import {
  Conversations as ConversationsService,
  ListConversationsRequestSchema,
  ListMessagesRequestSchema,
  type ListMessagesResponse,
} from "./gen/parley/v1/conversations_pb.js";
import type {
  Conversation,
  ConversationSchema,
  Image,
  Message,
  MessageSchema,
} from "./gen/parley/v1/resources_pb.js";

/** What a caller may change in a conversation. */
export type ConversationField =
  "title" | "system" | "postSystem" | "model" | "context" | "labels" | "headMessageId";

/**
 * Conversations keeps the dialogues that replies are part of. A caller who acts for an end user sees that
 * user's alone; what belongs to somebody else is NOT_FOUND. Pages hold at most 1 MiB, and may hold fewer than
 * `pageSize`.
 */
export class Conversations {
  /** @internal Use `client.conversations`. */
  constructor(private readonly connection: Connection) {}

  /**
   * Creates a conversation, which may begin with messages; its id may be chosen. A repeated `requestId`
   * returns it.
   */
  async create(
    conversation: MessageInitShape<typeof ConversationSchema> = {},
    {
      requestId,
      signal,
      messages = [],
    }: CallOptions & {
      messages?: readonly MessageInitShape<typeof MessageSchema>[] | undefined;
      requestId?: string | undefined;
    } = {},
  ): Promise<Conversation> {
    const request = { conversation, messages: [...messages], requestId: requestId || randomUUID() };
    return await this.connection.unary(ConversationsService.method.createConversation, request, { signal });
  }

  /** The conversation; its `activeReplyId` is a reply to resume. */
  async get(conversationId: string, { signal }: CallOptions = {}): Promise<Conversation> {
    const request = { conversationId };
    return await this.connection.unary(ConversationsService.method.getConversation, request, { signal });
  }

  /** Conversations that match, newest activity first, without `system` and `postSystem`. */
  async *list({
    signal,
    ...options
  }: CallOptions & {
    pageSize?: number | undefined;
    query?: string | undefined;
    labels?: Readonly<Record<string, string>> | undefined;
  } = {}): AsyncGenerator<Conversation, void, undefined> {
    const request = create(ListConversationsRequestSchema, { ...options });
    do {
      const page = await this.connection.unary(ConversationsService.method.listConversations, request, {
        signal,
      });
      yield* page.conversations;
      request.pageToken = page.nextPageToken;
    } while (request.pageToken);
  }

  /**
   * Changes the fields of a conversation that are named, or those that are set. Its `etag`, where set, must
   * be the newest. Not safe to repeat after a cut: that may overwrite what another caller has written
   * meanwhile.
   */
  async update(
    conversation: MessageInitShape<typeof ConversationSchema>,
    {
      fields = [],
      signal,
    }: CallOptions & {
      fields?: readonly ConversationField[] | undefined;
    } = {},
  ): Promise<Conversation> {
    const paths = fields.map((field) => field.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`));
    const request = { conversation, updateMask: { paths } };
    return await this.connection.unary(ConversationsService.method.updateConversation, request, {
      signal,
      repeatable: false,
    });
  }

  /**
   * Erases a conversation, where its etag still is the one given, with its messages, images and replies; a
   * running reply is cancelled first. What it cost stays counted.
   */
  async delete(
    conversationId: string,
    {
      signal,
      ...options
    }: CallOptions & {
      etag?: string | undefined;
    } = {},
  ): Promise<void> {
    const request = { conversationId, ...options };
    await this.connection.unary(ConversationsService.method.deleteConversation, request, { signal });
  }

  /** The messages of a branch, by default of the one that is shown, newest first. */
  async *messages(
    conversationId: string,
    {
      signal,
      ...options
    }: CallOptions & {
      pageSize?: number | undefined;
      leafMessageId?: string | undefined;
      allBranches?: boolean | undefined;
    } = {},
  ): AsyncGenerator<Message, void, undefined> {
    for await (const page of this.messagePages(conversationId, { signal, ...options })) yield* page.messages;
  }

  /** The same messages page by page, with the replies that belong to them. */
  async *messagePages(
    conversationId: string,
    {
      signal,
      ...options
    }: CallOptions & {
      pageSize?: number | undefined;
      leafMessageId?: string | undefined;
      allBranches?: boolean | undefined;
    } = {},
  ): AsyncGenerator<ListMessagesResponse, void, undefined> {
    const request = create(ListMessagesRequestSchema, { conversationId, ...options });
    do {
      const page = await this.connection.unary(ConversationsService.method.listMessages, request, { signal });
      yield page;
      request.pageToken = page.nextPageToken;
    } while (request.pageToken);
  }

  /** An image of one of the caller's conversations, with its bytes. */
  async image(imageId: string, { signal }: CallOptions = {}): Promise<Image> {
    const request = { imageId };
    return await this.connection.unary(ConversationsService.method.getImage, request, { signal });
  }
}
