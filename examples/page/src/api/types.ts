import type { WireName } from "../wire";

/** The JSON of the page routes. */
export interface Config {
  wire: WireName;
  login: "none" | "demo" | "token" | "api_key";
  images: boolean;
  title: string;
}

export interface Conversation {
  id: string;
  title: string;
  create_time: string;
  update_time: string;
  active_reply_id: string | null;
}

export interface ReplyInfo {
  id: string;
  state: "running" | "completed" | "cancelled" | "failed";
  model: string | null;
  finish_reason: string | null;
  input_tokens: number | null;
  output_tokens: number | null;
  cost_usd: number | null;
  error: { message: string; error?: string; code: string; retryable: boolean } | null;
}

export interface Message {
  id: string;
  role: "user" | "assistant";
  text: string;
  images: { id: string; mime_type: string }[];
  partial: boolean;
  create_time: string;
  reply: ReplyInfo | null;
}

export interface MessagePage {
  messages: Message[];
  active_reply_id: string | null;
  next_page_token: string | null;
}

export interface ConversationPage {
  conversations: Conversation[];
  next_page_token: string | null;
}

export interface Model {
  id: string;
  name: string;
  images: boolean;
  /** The model of requests that name none. */
  is_default: boolean;
}
