/** Browser storage that may be switched off: then nothing is kept, and nothing fails. */
export class Storage {
  constructor(private readonly storage: () => globalThis.Storage) {}

  get(name: string): string | null {
    try {
      return this.storage().getItem(PREFIX + name);
    } catch {
      return null;
    }
  }

  /** Null or an empty text removes the entry. */
  set(name: string, value: string | null): void {
    try {
      if (value) this.storage().setItem(PREFIX + name, value);
      else this.storage().removeItem(PREFIX + name);
    } catch {
      // Full or forbidden: the page works without it.
    }
  }
}

const PREFIX = "parley:";

/** Of this tab, until it is closed: credentials and drafts. */
export const tabStorage = new Storage(() => sessionStorage);
/** Of this browser: preferences. */
export const browserStorage = new Storage(() => localStorage);

/** The entry of what is typed in a conversation, and not sent. */
export function draftKey(conversationId: string | null): string {
  return `draft:${conversationId ?? "new"}`;
}

/** The entry of a question that was sent, and is not known to have arrived. */
export function sentKey(conversationId: string | null): string {
  return `sent:${conversationId ?? "new"}`;
}
