import { ref, type Ref } from "vue";

/** The conversation in the address: `/c/{id}`, or null at `/`. */
export interface Route {
  readonly id: Readonly<Ref<string | null>>;
  go(id: string | null): void;
}

export function useRoute(): Route {
  const id = ref(read());
  window.addEventListener("popstate", () => (id.value = read()));
  return {
    id,
    go(next) {
      if (next === id.value) return;
      history.pushState(null, "", next === null ? "/" : `/c/${encodeURIComponent(next)}`);
      id.value = next;
    },
  };
}

function read(): string | null {
  const match = /^\/c\/([^/]+)$/.exec(location.pathname);
  if (!match?.[1]) return null;
  try {
    return decodeURIComponent(match[1]);
  } catch {
    return null;
  }
}
