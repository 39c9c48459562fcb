/** Conversions from plain JavaScript values to fields of messages. They throw TypeError for wrong values. */

import { durationFromMs, type Duration } from "@bufbuild/protobuf/wkt";

/** Returns a protobuf duration, rounded to milliseconds. */
export function duration(ms: number | undefined): Duration | undefined {
  return ms === undefined ? undefined : durationFromMs(Math.round(ms));
}

/** Copies a list. The check is for callers without TypeScript: a string would be split into letters. */
export function list<T>(name: string, values: readonly T[] | undefined): T[] {
  if (values !== undefined && !Array.isArray(values))
    throw new TypeError(`${name}: must be a list, not a single value`);
  return values ? [...values] : [];
}

/** Returns the enum value of a name. */
export function choice<T>(
  name: string,
  value: string | undefined,
  of: Readonly<Record<string, T>>,
): T | undefined {
  if (value === undefined || value in of) return of[value ?? ""];
  throw new TypeError(`${name}: must be ${Object.keys(of).join(" or ")}, not ${value}`);
}

/** Returns the one field that is set as a oneof; throws if several are. */
export function oneOf<K extends string>(fields: { readonly [name in K]?: string | undefined }) {
  const names = (Object.keys(fields) as K[]).filter((name) => fields[name]);
  if (names.length > 1) throw new TypeError(`${names.join(" and ")} exclude each other`);
  const [name] = names;
  return name ? { case: name, value: fields[name]! } : { case: undefined };
}

/** Returns the fields, or undefined if none is set. */
export function whole<T extends object>(fields: T): T | undefined {
  return Object.values(fields).some((value) => value !== undefined) ? fields : undefined;
}
