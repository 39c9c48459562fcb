import { onBeforeUnmount, ref, watch, type Ref } from "vue";
import { useMedia } from "./useMedia";

/** The remaining text shrinks to a third within this time, however large the pieces are in which it arrives. */
const PACE_MS = 350;

/** A text that follows `target` letter by letter, so that pieces of a poll appear as typing. At once with reduced motion. */
export function useTyping(target: () => string): Ref<string> {
  const shown = ref(target());
  const reduced = useMedia("(prefers-reduced-motion: reduce)");
  let frame = 0;
  let lastMs = 0;

  function step(nowMs: number): void {
    const goal = target();
    const remaining = goal.length - shown.value.length;
    const letters = Math.ceil(remaining * (1 - Math.exp(-(nowMs - lastMs) / PACE_MS)));
    lastMs = nowMs;
    shown.value = goal.slice(0, whole(goal, shown.value.length + Math.max(1, letters)));
    frame = shown.value.length < goal.length ? requestAnimationFrame(step) : 0;
  }

  watch(target, (goal) => {
    // A hidden page has no frames.
    if (reduced.value || document.hidden || !goal.startsWith(shown.value)) shown.value = goal;
    else if (!frame) {
      lastMs = performance.now();
      frame = requestAnimationFrame(step);
    }
  });
  onBeforeUnmount(() => cancelAnimationFrame(frame));
  return shown;
}

/** An end that does not cut a character of two code units in half. */
function whole(text: string, end: number): number {
  const unit = text.charCodeAt(end - 1);
  return unit >= 0xd800 && unit <= 0xdbff ? end + 1 : end;
}
