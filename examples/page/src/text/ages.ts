const MINUTE_MS = 60_000;
const HOUR_MS = 60 * MINUTE_MS;
const DAY_MS = 24 * HOUR_MS;

/** "now", "5 min", "3 h", "2 d", then the date. */
export function age(time: string, nowMs: number): string {
  const passedMs = nowMs - Date.parse(time);
  if (!Number.isFinite(passedMs)) return "";
  if (passedMs < MINUTE_MS) return "now";
  if (passedMs < HOUR_MS) return `${Math.floor(passedMs / MINUTE_MS)} min`;
  if (passedMs < DAY_MS) return `${Math.floor(passedMs / HOUR_MS)} h`;
  if (passedMs < 7 * DAY_MS) return `${Math.floor(passedMs / DAY_MS)} d`;
  return new Date(time).toLocaleDateString("en", { day: "numeric", month: "short", year: "numeric" });
}

export function tokens(input: number | null, output: number | null): string {
  const parts = [
    input === null ? "" : `${input.toLocaleString("en")} in`,
    output === null ? "" : `${output.toLocaleString("en")} out`,
  ].filter(Boolean);
  return parts.length ? `${parts.join(" + ")} tokens` : "";
}

/** Two significant digits below a cent, where most answers are; empty without a price. */
export function cost(usd: number | null): string {
  if (usd === null) return "";
  if (usd === 0) return "$0";
  return usd >= 0.01 ? `$${usd.toFixed(2)}` : `$${Number(usd.toPrecision(2))}`;
}
