import { reactive } from "vue";
import type { PageApi } from "../api/page";
import type { Conversation } from "../api/types";

export interface ListView {
  conversations: Conversation[];
  nextToken: string | null;
  loaded: boolean;
  failed: boolean;
}

/** The conversations of the user, newest activity first. */
export class ConversationList {
  readonly view: ListView = reactive({ conversations: [], nextToken: null, loaded: false, failed: false });
  private latest = 0;

  constructor(private readonly api: PageApi) {}

  /** Reads the newest page again and keeps the older ones. The last of several calls wins. */
  async refresh(): Promise<void> {
    const call = ++this.latest;
    const page = await this.api.conversations().catch(() => null);
    if (call !== this.latest) return;
    this.view.failed = page === null;
    if (!page) return;
    const first = !this.view.loaded || this.view.conversations.length <= page.conversations.length;
    this.view.conversations = first
      ? page.conversations
      : joined(page.conversations, this.view.conversations);
    if (first) this.view.nextToken = page.next_page_token;
    this.view.loaded = true;
  }

  async more(): Promise<void> {
    if (!this.view.nextToken) return;
    const page = await this.api.conversations(this.view.nextToken).catch(() => null);
    if (!page) return;
    this.view.conversations = joined(this.view.conversations, page.conversations);
    this.view.nextToken = page.next_page_token;
  }

  /** Rejects with a `Fault` if it could not be deleted. */
  async remove(id: string): Promise<void> {
    await this.api.remove(id);
    this.view.conversations = this.view.conversations.filter((each) => each.id !== id);
    await this.refresh();
  }
}

function joined(first: Conversation[], rest: Conversation[]): Conversation[] {
  const ids = new Set(first.map(({ id }) => id));
  return [...first, ...rest.filter(({ id }) => !ids.has(id))];
}
