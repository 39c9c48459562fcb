/** Node client of Parley. Its public API; `@parley/client/v1` has the generated messages. */

export type { Admin, UsageOptions } from "./admin.js";
export type { Backoff } from "./backoff.js";
export { Client, type CancelTarget, type PollOptions, type ResumeOptions } from "./client.js";
export type { CallOptions } from "./connection.js";
export * from "./errors.js";
export type {
  Accepted,
  FinishName,
  Finished,
  Reasoning,
  Reconnecting,
  ReplyEvent,
  Snapshot,
  Text,
  ToolCall,
  ToolCallDelta,
  UsageUpdate,
} from "./events.js";
export type { ImageSource, ReplyFields } from "./fields.js";
export type { ConversationField, Conversations } from "./conversations.js";
export type { ReplyStream } from "./stream.js";
export type { ClientOptions, Credential } from "./settings.js";
export type { TlsOptions } from "./wire.js";
