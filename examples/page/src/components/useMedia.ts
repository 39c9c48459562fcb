import { onBeforeUnmount, ref, type Ref } from "vue";

/** Whether a media query matches, kept up to date while the component lives. */
export function useMedia(query: string): Ref<boolean> {
  const media = window.matchMedia(query);
  const matches = ref(media.matches);
  const update = () => (matches.value = media.matches);
  media.addEventListener("change", update);
  onBeforeUnmount(() => media.removeEventListener("change", update));
  return matches;
}
