import { ref } from "vue";
import { LARGEST_BYTES, NotAnImage, picture } from "../images/scale";
import type { Picture } from "../wire/events";

/** The pictures of the next question: at most `most`, which share the size that a request may have. */
export function usePictures(most: number) {
  const pictures = ref<Picture[]>([]);
  const problem = ref("");

  async function add(chosen: Iterable<File>): Promise<void> {
    problem.value = "";
    for (const file of chosen) {
      try {
        const scaled = await picture(file, LARGEST_BYTES / most);
        // Only now: another call may have added pictures during the wait.
        if (pictures.value.length >= most) {
          problem.value = most === 1 ? "One picture at a time." : `At most ${most} pictures at a time.`;
          return;
        }
        pictures.value = [...pictures.value, scaled];
      } catch (error) {
        if (!(error instanceof NotAnImage)) throw error;
        problem.value = `${file.name || "This file"} is not a picture that this browser can read.`;
      }
    }
  }

  function remove(index: number): void {
    pictures.value = pictures.value.filter((_, at) => at !== index);
  }

  function replace(others: Picture[]): void {
    pictures.value = others;
    problem.value = "";
  }

  return { pictures, problem, add, remove, replace };
}
