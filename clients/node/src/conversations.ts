/** Calls of the Conversations service. They return messages of `parley.v1` and throw a ParleyError. */

import { randomUUID } from "node:crypto";
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import type { CallOptions, Connection } from "./connection.js";
import {
  Conversations as ConversationsService,
  ListConversationsRequestSchema,
  ListMessagesRequestSchema,
  type ListConversationsResponse,
  type ListMessagesResponse,
} from "./gen/parley/v1/conversations_pb.js";
import type {
  Conversation,
  ConversationSchema,
  Image,
  Message,
  MessageSchema,
} from "./gen/parley/v1/resources_pb.js";

/** The fields that `update` can change. */
export type ConversationField =
  | "title"
  | "system"
  | "postSystem"
  | "model"
  | "context"
  | `context.${"maxMessages" | "maxTokens" | "overflow" | "reminder" | "reminderInterval"}`
  | "labels"
  | "headMessageId";

interface ListOptions {
  pageSize?: number | undefined;
  query?: string | undefined;
  labels?: Readonly<Record<string, string>> | undefined;
}

/**
 * Stores the dialogues of replies. A caller that acts for an end user sees only that user's conversations; others are
 * NOT_FOUND. A page has at most 1 MiB, and may have fewer items than `pageSize`.
 */
export class Conversations {
  /** @internal Use `client.conversations`. */
  constructor(private readonly connection: Connection) {}

  /**
   * Creates a conversation, optionally with messages and a chosen id. A repeated `requestId` returns the existing one.
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

  /** Returns a conversation; its `activeReplyId` names the running reply, which can be resumed. */
  async get(conversationId: string, { signal }: CallOptions = {}): Promise<Conversation> {
    const request = { conversationId };
    return await this.connection.unary(ConversationsService.method.getConversation, request, { signal });
  }

  /** Returns the matching conversations, newest activity first, without `system` and `postSystem`. */
  async *list({ signal, ...options }: CallOptions & ListOptions = {}): AsyncGenerator<
    Conversation,
    void,
    undefined
  > {
    for await (const page of this.pages({ signal, ...options })) yield* page.conversations;
  }

  /** Returns the same conversations page by page; `pageToken` is the `nextPageToken` of an earlier page. */
  async *pages({
    signal,
    ...options
  }: CallOptions & ListOptions & { pageToken?: string | undefined } = {}): AsyncGenerator<
    ListConversationsResponse,
    void,
    undefined
  > {
    const request = create(ListConversationsRequestSchema, { ...options });
    do {
      const page = await this.connection.unary(ConversationsService.method.listConversations, request, {
        signal,
      });
      yield page;
      request.pageToken = page.nextPageToken;
    } while (request.pageToken);
  }

  /**
   * Changes the named fields of a conversation, or those that are set. Its `etag`, if set, must be current.
   * Not safe to retry after a cut: a retry may overwrite later changes of another caller.
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
   * Deletes a conversation with its messages, images and replies; a running reply is cancelled first. Its
   * `etag`, if set, must be current. Usage and cost remain counted.
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

  /** Returns the messages of a branch, newest first; by default of the branch that is shown. */
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

  /** Returns the same messages page by page, with their replies; `pageToken` is the `nextPageToken` of an earlier page. */
  async *messagePages(
    conversationId: string,
    {
      signal,
      ...options
    }: CallOptions & {
      pageSize?: number | undefined;
      pageToken?: string | undefined;
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

  /** Returns an image of one of the caller's conversations, with its bytes. */
  async image(imageId: string, { signal }: CallOptions = {}): Promise<Image> {
    const request = { imageId };
    return await this.connection.unary(ConversationsService.method.getImage, request, { signal });
  }
}
