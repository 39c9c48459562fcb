import { reactive } from "vue";
import type { PageApi } from "../api/page";
import type { Message } from "../api/types";
import { failure, type Failure, type Picture, type Wire } from "../wire/events";
import { aborted, Fault } from "../wire/fault";
import { uuid } from "../wire/ids";
import { wait } from "../wire/wait";
import { emptyView, type ChatOptions, type ChatView, type Unsent } from "./chatView";
import { Follow, type Start } from "./follow";
import { answer, merge, prepend, question, type Item } from "./items";
import { liveView, type Ending, type LiveView } from "./live";
import { News } from "./news";
import { attaching, retrying, sending } from "./starts";

const STOP_RETRY_MS = 1_000;
/** The open conversation: its messages, its running reply, and what a user can do with them. */
export class Chat {
  readonly view: ChatView = reactive(emptyView(null));
  private scope = new AbortController();
  private follow: Follow | null = null;
  private requestId: string | null = null;
  private readonly news: News;
  constructor(
    private readonly api: PageApi,
    private readonly wire: Wire,
    private readonly options: ChatOptions,
  ) {
    this.news = new News(api);
  }

  /** Shows a conversation, or an empty new one. A reply that runs elsewhere is not touched. */
  async open(id: string | null): Promise<void> {
    this.leave();
    Object.assign(this.view, emptyView(id), { loading: id !== null });
    if (id !== null) await this.load(id);
  }

  leave(): void {
    this.scope.abort(new DOMException("left", "AbortError"));
    this.scope = new AbortController();
    this.follow = null;
  }

  /** False if a reply runs, so that nothing was sent. */
  send(text: string, pictures: Picture[]): boolean {
    if (this.view.live || this.view.loading) return false;
    this.dismiss();
    const requestId = uuid();
    void this.ask({ key: requestId, requestId, text, pictures });
    return true;
  }

  /** Sends the question again that was not taken. */
  resend(): void {
    const { unsent, live } = this.view;
    if (unsent && !live) void this.ask(unsent);
  }

  /** Takes the question back that was not taken, to edit it. */
  takeBack(): void {
    const { unsent } = this.view;
    this.dismiss();
    this.view.returned = unsent;
  }

  /** Removes what failed from the page: a question that was not taken, or a message about trouble. */
  dismiss(): void {
    const { unsent } = this.view;
    if (unsent) this.view.items = this.view.items.filter((item) => item.key !== unsent.key);
    this.view.unsent = this.view.trouble = null;
  }

  /** Replaces the last answer with a new one. */
  async retry(): Promise<void> {
    const { id, live, items } = this.view;
    const last = items.at(-1);
    if (!id || live || last?.role !== "assistant" || !last.id) return;
    this.dismiss();
    this.view.items = items.slice(0, -1);
    const requestId = (this.requestId = uuid());
    const ending = await this.run(id, `${requestId}:answer`, retrying(this.api, id, last.id, requestId));
    if (ending?.kind !== "refused") return;
    this.view.items = [...this.view.items, last];
    this.fail(ending.failure);
  }

  /** Ends the running reply. What was written of it stays. */
  async stop(): Promise<void> {
    const { id, live } = this.view;
    if (!id || !live || live.stopping) return;
    live.stopping = true;
    if (this.follow && !this.follow.accepted) return this.giveUp(id);
    const { signal } = this.scope;
    while (this.view.live === live) {
      try {
        await this.api.stop(id, this.requestId, signal);
        return;
      } catch (error) {
        if (!(error instanceof Fault)) return;
        // The reply has to end even if the connection is lost at this moment.
        await wait(STOP_RETRY_MS, signal).catch(() => undefined);
      }
    }
  }

  /** The network has changed: connects again without waiting. */
  wake(): void {
    this.follow?.reconnect();
  }

  /** Looks for what other tabs and devices have done. */
  async sync(): Promise<void> {
    const { id, live, loading, unsent } = this.view;
    if (!id || live || loading || unsent) return;
    const { signal } = this.scope;
    const page = await this.news.read(id).catch(() => null);
    if (!page || signal.aborted || this.view.live) return;
    this.view.items = merge(this.view.items, page.messages);
    if (page.active_reply_id) await this.attach(id, page.active_reply_id);
  }

  async loadOlder(): Promise<void> {
    const { id, olderToken } = this.view;
    if (!id || !olderToken) return;
    const { signal } = this.scope;
    const page = await this.api.messages(id, olderToken).catch(() => null);
    if (!page || signal.aborted) return;
    this.view.items = prepend(this.view.items, page.messages);
    this.view.olderToken = page.next_page_token;
  }

  private async load(id: string): Promise<void> {
    const { signal } = this.scope;
    try {
      const page = await this.api.messages(id);
      if (signal.aborted) return;
      Object.assign(this.view, { loading: false, missing: page === null });
      if (!page) return;
      Object.assign(this.view, { items: merge([], page.messages), olderToken: page.next_page_token });
      if (page.active_reply_id) await this.attach(id, page.active_reply_id);
    } catch (error) {
      if (signal.aborted) return;
      this.view.loading = false;
      if (error instanceof Fault) this.fail(error.failure);
      else throw error;
    }
  }

  private async attach(id: string, replyId: string): Promise<void> {
    this.requestId = null;
    await this.run(id, `${replyId}:answer`, attaching(this.api, id));
  }

  private async ask(unsent: Unsent): Promise<void> {
    const { key, requestId, text, pictures } = unsent;
    const id = this.view.id ?? this.create();
    this.view.unsent = this.view.trouble = null;
    const known = new Set(this.view.items.map((item) => item.id));
    if (!this.view.items.some((item) => item.key === key)) {
      this.view.items = [...this.view.items, question(key, text, pictures)];
    }
    this.requestId = requestId;
    const model = this.options.model();
    const how = { streaming: this.options.streaming(), ...(model ? { model } : {}) };
    const sent = { conversationId: id, text, pictures, requestId, ...how };
    const start = sending(this.wire, sent, known, () => this.options.onChange(id));
    const ending = await this.run(id, `${requestId}:answer`, start);
    if (ending?.kind === "refused") this.refuse(unsent, ending);
  }

  private create(): string {
    const id = this.wire.newConversationId();
    this.view.id = id;
    this.options.onCreated(id);
    return id;
  }

  /** Follows a reply to its end and shows the result. Null if the user has left. */
  private async run(id: string, key: string, start: Start): Promise<Ending | null> {
    const { signal } = this.scope;
    const hold = !this.options.streaming() && !this.wire.growsWithoutStreaming;
    this.view.live = liveView(key, hold);
    const live = this.view.live;
    this.follow = new Follow(this.api, id, live, signal);
    try {
      const ending = await this.follow.run(start);
      await this.finish(id, live, ending, signal);
      return ending;
    } catch (error) {
      if (aborted(error) || signal.aborted) return null;
      throw error;
    }
  }

  private async finish(id: string, live: LiveView, ending: Ending, signal: AbortSignal): Promise<void> {
    if (ending.kind === "refused") {
      this.view.live = null;
      return;
    }
    if (ending.kind === "failed" && ending.failure.code === "STREAM_TIMEOUT") {
      // The page waits no longer, and nobody else does.
      this.api.stop(id, this.requestId, signal).catch(() => undefined);
    }
    const shown = answer(live.key, live.text, ending);
    if (shown) Object.assign(this.view, { items: [...this.view.items, shown], live: null });
    const page = await this.api.messages(id).catch(() => null);
    if (signal.aborted) return;
    if (this.view.live === live) this.view.live = null;
    if (page) this.settle(page.messages, shown);
    this.options.onChange(id);
  }

  /** The stored messages instead of what the page has made of the events. */
  private settle(stored: Message[], shown: Item | null): void {
    const items = merge(this.view.items, stored);
    const last = items.at(-1);
    // A failure of the page itself is in no stored message.
    if (shown?.reply?.state === "failed" && last?.reply?.state !== "failed") {
      if (last?.role === "assistant") this.fail(shown.reply.error as Failure);
      else items.push(shown);
    }
    this.view.items = items;
  }

  private refuse(unsent: Unsent, { failure: why, status }: Extract<Ending, { kind: "refused" }>): void {
    // A refusal is final for its key, but after a server's error the question may still have arrived.
    this.view.unsent = { ...unsent, requestId: status >= 500 ? unsent.requestId : uuid() };
    if (why.code === "REPLY_IN_PROGRESS") {
      this.takeBack();
      void this.sync();
    }
    this.fail(why);
  }

  private giveUp(id: string): void {
    this.api.stop(id, this.requestId, new AbortController().signal).catch(() => undefined);
    const last = this.view.items.at(-1);
    this.leave();
    this.view.live = null;
    if (last?.role !== "user") return;
    this.view.unsent = { ...last, requestId: uuid() };
    this.fail(failure("NOT_SENT", "", { retryable: true }));
  }

  private fail(why: Failure): void {
    const againMs = why.retryAfterMs === null ? null : Date.now() + why.retryAfterMs;
    this.view.trouble = { failure: why, againMs };
  }
}
