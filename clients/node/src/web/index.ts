/** What the adapters of all web frameworks have in common. */

export { ensureConversation } from "./conversation.js";
export type { PageFile } from "./files.js";
export { idempotencyKey, requiredText, textOf } from "./fields.js";
export { refuseOthers, type PageConfig, type PageOptions } from "./page/router.js";
export { Refused, concernsOperator, refusal, type Refusal, type RefusalBody } from "./refusal.js";
export type { Failure, ReplyEnd, ReplyEvents, SendOptions } from "./reply.js";
export { shutDown } from "./shutdown.js";
