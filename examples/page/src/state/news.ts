import type { PageApi } from "../api/page";
import type { MessagePage } from "../api/types";

/** Reads the messages of a conversation only if there was any activity since the last time. */
export class News {
  private seen = "";

  constructor(private readonly api: PageApi) {}

  /** The newest messages; null without news. Rejects with a `Fault`. */
  async read(id: string): Promise<MessagePage | null> {
    const conversation = await this.api.conversation(id);
    if (!conversation) return null;
    const state = `${id} ${conversation.update_time}`;
    if (!conversation.active_reply_id && state === this.seen) return null;
    const page = await this.api.messages(id);
    this.seen = state;
    return page;
  }
}
