/** What protobuf has no plain JavaScript for. */

import { durationFromMs, type Duration } from "@bufbuild/protobuf/wkt";

/** To the millisecond. */
export function duration(ms: number | undefined): Duration | undefined {
  return ms === undefined ? undefined : durationFromMs(Math.round(ms));
}

/** A list of one's own. JavaScript callers have no compiler: a string would be taken letter by letter. */
export function list<T>(name: string, values: readonly T[] | undefined): T[] {
  if (values !== undefined && !Array.isArray(values)) throw new TypeError(`${name}: a list is meant`);
  return values ? [...values] : [];
}

/** What a name stands for. */
export function choice<T>(
  name: string,
  value: string | undefined,
  of: Readonly<Record<string, T>>,
): T | undefined {
  if (value === undefined || value in of) return of[value ?? ""];
  throw new TypeError(`${name}: ${Object.keys(of).join(" or ")} is meant, not ${value}`);
}

/** Which of these a caller has named: at most one. */
export function oneOf<K extends string>(fields: { readonly [name in K]?: string | undefined }) {
  const names = (Object.keys(fields) as K[]).filter((name) => fields[name]);
  if (names.length > 1) throw new TypeError(`${names.join(" and ")} exclude each other`);
  const [name] = names;
  return name ? { case: name, value: fields[name]! } : { case: undefined };
}

/** A message, where anything is in it. */
export function whole<T extends object>(fields: T): T | undefined {
  return Object.values(fields).some((value) => value !== undefined) ? fields : undefined;
}
