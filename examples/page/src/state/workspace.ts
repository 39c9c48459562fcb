import { computed, reactive, ref, shallowRef, watch, type InjectionKey } from "vue";
import type { Config, Model } from "../api/types";
import { openWire } from "../wire";
import { Chat } from "./chat";
import { ConversationList } from "./list";
import { useRoute } from "./route";
import type { Session } from "./session";
import { browserStorage, sentKey, tabStorage } from "./storage";

/** How often a visible page asks for what another device has done. */
const SYNC_MS = 10_000;

export type Workspace = ReturnType<typeof createWorkspace>;
export const WORKSPACE: InjectionKey<Workspace> = Symbol("workspace");

/** All that a signed-in user works with: the list, the open conversation, and what keeps them up to date. */
export function createWorkspace(session: Session, config: Config) {
  const route = useRoute();
  const models = shallowRef<Model[]>([]);
  const settings = reactive({
    streaming: browserStorage.get("streaming") !== "off",
    model: browserStorage.get("model") ?? "",
  });
  const list = new ConversationList(session.api);
  const tabs = new BroadcastChannel("parley:changes");
  const changed = (id: string) => {
    tabStorage.set(sentKey(id), null);
    void list.refresh();
    tabs.postMessage(id);
  };
  const chat = new Chat(session.api, openWire(config.wire, session.http), {
    streaming: () => settings.streaming,
    model: () => (models.value.some(({ id }) => id === settings.model) ? settings.model : ""),
    onChange: changed,
    onCreated: (id) => route.go(id),
  });

  const offline = ref(!navigator.onLine);
  const stop = new AbortController();
  const { signal } = stop;
  // Connections of a network that has gone stay open until a time limit, so that they are given up at once.
  window.addEventListener("offline", () => [(offline.value = true), chat.wake()], { signal });
  window.addEventListener("online", () => [(offline.value = false), chat.wake(), refresh()], { signal });
  document.addEventListener("visibilitychange", () => document.hidden || refresh(), { signal });
  const timer = setInterval(() => document.hidden || refresh(), SYNC_MS);
  tabs.onmessage = ({ data }) => {
    void list.refresh();
    if (data === chat.view.id) void chat.sync();
  };

  function refresh(): void {
    void list.refresh();
    void chat.sync();
    if (!models.value.length) loadModels();
  }

  function loadModels(): void {
    if (config.wire !== "page") return;
    session.api.models().then(
      (found) => (models.value = found),
      () => undefined,
    );
  }

  watch(settings, ({ streaming, model }) => {
    browserStorage.set("streaming", streaming ? null : "off");
    browserStorage.set("model", model);
  });
  watch(route.id, (id) => id === chat.view.id || chat.open(id), { immediate: true });
  void list.refresh();
  loadModels();

  return {
    config,
    session,
    settings,
    models,
    list,
    chat,
    offline,
    open: (id: string | null) => route.go(id),
    /** Deletes a conversation here and in the list. */
    async remove(id: string): Promise<void> {
      await list.remove(id);
      if (chat.view.id === id) route.go(null);
      tabs.postMessage(id);
    },
    /** Whether the model of the next question takes images: the chosen one, else the default one. Products with a route
     * of their own choose the model themselves. */
    imagesAllowed: computed(() => {
      if (config.wire !== "page") return config.images;
      const chosen = models.value.find(({ id }) => id === settings.model);
      const model = chosen ?? models.value.find(({ is_default }) => is_default);
      return config.images && (model?.images ?? false);
    }),
    close(): void {
      stop.abort();
      clearInterval(timer);
      tabs.close();
      chat.leave();
    },
  };
}
