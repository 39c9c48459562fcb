/** A random UUID. `crypto.randomUUID` exists on https and localhost only, and a phone may open a page by its address. */
export function uuid(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6]! & 0x0f) | 0x40;
  bytes[8] = (bytes[8]! & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}

/** A random positive integer that a JSON number holds exactly. */
export function integerId(): string {
  const [high, low] = crypto.getRandomValues(new Uint32Array(2));
  return String((high! & 0x1fffff) * 2 ** 32 + low! || 1);
}
