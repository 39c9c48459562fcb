import type { Picture } from "../wire/events";

/** Backends take bodies of 3 MB; base64 makes 2.2 MB of image into 2.9 MB. */
export const LARGEST_BYTES = 2_200_000;

/** Vision models scale larger images down themselves. */
const LONGEST_SIDE = 2_048;
const AS_THEY_ARE = new Set(["image/png", "image/jpeg", "image/webp", "image/gif"]);
const QUALITY = 0.85;
const SHRINK = 0.75;

export class NotAnImage extends Error {}

/** The picture of a file, scaled down until it has at most `largestBytes`. Rejects with `NotAnImage`. */
export async function picture(file: Blob, largestBytes = LARGEST_BYTES): Promise<Picture> {
  const bitmap = await decode(file);
  try {
    const longest = Math.max(bitmap.width, bitmap.height);
    if (file.size <= largestBytes && longest <= LONGEST_SIDE && AS_THEY_ARE.has(file.type)) {
      return { mimeType: file.type, data: await base64(file) };
    }
    const blob = await shrink(bitmap, Math.min(1, LONGEST_SIDE / longest), largestBytes);
    return { mimeType: blob.type, data: await base64(blob) };
  } finally {
    bitmap.close();
  }
}

async function decode(file: Blob): Promise<ImageBitmap> {
  try {
    return await createImageBitmap(file, { imageOrientation: "from-image" });
  } catch {
    throw new NotAnImage();
  }
}

async function shrink(bitmap: ImageBitmap, scale: number, largestBytes: number): Promise<Blob> {
  for (;;) {
    const blob = await draw(bitmap, scale);
    if (blob.size <= largestBytes) return blob;
    scale *= SHRINK;
  }
}

async function draw(bitmap: ImageBitmap, scale: number): Promise<Blob> {
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const context = canvas.getContext("2d");
  if (!context) throw new NotAnImage();
  // JPEG has no transparency: without a ground, transparent parts become black.
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  const blob = await new Promise<Blob | null>((resolve) => canvas.toBlob(resolve, "image/jpeg", QUALITY));
  if (!blob) throw new NotAnImage();
  return blob;
}

function base64(blob: Blob): Promise<string> {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(String(reader.result).replace(/^data:[^,]*,/, ""));
    reader.onerror = () => reject(new NotAnImage());
    reader.readAsDataURL(blob);
  });
}

/** Without a prefix, as backends take it, base64 needs one for `<img>`. */
export function dataUrl({ mimeType, data }: Picture): string {
  return `data:${mimeType};base64,${data}`;
}
