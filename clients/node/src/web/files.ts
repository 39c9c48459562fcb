/** The files of a built page, with the headers of a page that runs nothing but its own scripts. */

import { readFile, realpath } from "node:fs/promises";
import type { OutgoingHttpHeaders } from "node:http";
import { extname, join, sep } from "node:path";
import { Refused } from "./refusal.js";

const HTML_HEADERS: OutgoingHttpHeaders = {
  "content-security-policy":
    "default-src 'self'; img-src 'self' data: blob:; style-src 'self'; script-src 'self'; connect-src 'self'; " +
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
  "x-content-type-options": "nosniff",
  "referrer-policy": "no-referrer",
  "cache-control": "no-cache",
};

const TYPES: Readonly<Record<string, string>> = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".css": "text/css; charset=utf-8",
  ".json": "application/json",
  ".map": "application/json",
  ".webmanifest": "application/manifest+json",
  ".svg": "image/svg+xml",
  ".png": "image/png",
  ".ico": "image/x-icon",
  ".woff2": "font/woff2",
  ".txt": "text/plain; charset=utf-8",
};

const NOT_BUILT =
  "The chat page is not built. Run `npm ci && npm run build` in the folder of the page, or name the folder of its build.";

/** The paths of the page itself: its conversations are links. */
const PAGES = /^\/(?:c\/[^/]+)?$/;
/** Names of files: no hidden ones, no way out of the folder. */
const FILES = /^(?:\/[\w-][\w.-]*)+$/;

export interface PageFile {
  readonly headers: OutgoingHttpHeaders;
  readonly body: Buffer;
}

/** Returns the file of a path, or undefined if the page has none there. Throws `Refused` if the page is not built. */
export async function pageFile(folder: string, path: string): Promise<PageFile | undefined> {
  if (PAGES.test(path)) {
    const body = await read(folder, "/index.html");
    if (!body) throw new Refused(404, NOT_BUILT);
    return { headers: { ...HTML_HEADERS, "content-type": TYPES[".html"] }, body };
  }
  const body = FILES.test(path) ? await read(folder, path) : undefined;
  return body && { headers: headersOf(path), body };
}

function headersOf(path: string): OutgoingHttpHeaders {
  const type = TYPES[extname(path)] ?? "application/octet-stream";
  if (type === TYPES[".html"]) return { ...HTML_HEADERS, "content-type": type };
  // The names of assets contain a hash of their content.
  const cache = path.startsWith("/assets/") ? "public, max-age=31536000, immutable" : "no-cache";
  return { "content-type": type, "cache-control": cache, "x-content-type-options": "nosniff" };
}

async function read(folder: string, path: string): Promise<Buffer | undefined> {
  try {
    const [root, file] = await Promise.all([realpath(folder), realpath(join(folder, path))]);
    return file.startsWith(root + sep) ? await readFile(file) : undefined;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ENOTDIR" || code === "EISDIR") return undefined;
    throw error;
  }
}
