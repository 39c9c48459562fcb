import { failure } from "./events";
import { cut, Fault, unreadable } from "./fault";

export interface HttpOptions {
  /** Sent as `Authorization: Bearer`; null without a login. */
  credential: () => string | null;
  /** Called after a 401. */
  onUnauthenticated?: () => void;
  /** Before the paths; empty in a browser. */
  base?: string;
}

export interface Request {
  body?: unknown;
  headers?: Record<string, string>;
  signal?: AbortSignal;
}

/** Requests with the user's credential. Every error of a request is a `Fault`; an abort by `signal` stays an `AbortError`. */
export class Http {
  constructor(private readonly options: HttpOptions) {}

  get credential(): string | null {
    return this.options.credential();
  }

  /** The response, if its status is a success. */
  async request(method: string, path: string, { body, headers, signal }: Request = {}): Promise<Response> {
    const response = await this.fetch(method, path, {
      headers: { ...this.authorization(), ...(body === undefined ? {} : JSON_BODY), ...headers },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      ...(signal ? { signal } : {}),
    });
    if (response.ok) return response;
    if (response.status === 401) this.options.onUnauthenticated?.();
    throw await refused(response);
  }

  async json<T>(method: string, path: string, request: Request = {}): Promise<T> {
    return readJson<T>(await this.request(method, path, request), request.signal);
  }

  private async fetch(method: string, path: string, init: RequestInit): Promise<Response> {
    try {
      return await fetch((this.options.base ?? "") + path, { method, ...init });
    } catch (error) {
      throw init.signal?.aborted ? init.signal.reason : cut();
    }
  }

  private authorization(): Record<string, string> {
    const credential = this.options.credential();
    return credential ? { authorization: `Bearer ${credential}` } : {};
  }
}

const JSON_BODY = { "content-type": "application/json" };

export async function readJson<T>(response: Response, signal?: AbortSignal): Promise<T> {
  let text: string;
  try {
    text = await response.text();
  } catch {
    if (signal?.aborted) throw signal.reason;
    throw cut();
  }
  try {
    return JSON.parse(text) as T;
  } catch {
    throw unreadable();
  }
}

async function refused(response: Response): Promise<Fault> {
  const body = await response.json().catch(() => ({}));
  const { message, error, code, retryable } = (body ?? {}) as Record<string, unknown>;
  const sentence = [message, error].find((each) => typeof each === "string" && each !== "");
  const { status } = response;
  return new Fault(
    "refused",
    failure(typeof code === "string" && code ? code : `HTTP_${status}`, String(sentence ?? ""), {
      retryable: typeof retryable === "boolean" ? retryable : status >= 500 || status === 429,
      retryAfterMs: retryAfterMs(response.headers.get("retry-after")),
    }),
    status,
  );
}

function retryAfterMs(header: string | null): number | null {
  const seconds = Number(header ?? Number.NaN);
  return Number.isFinite(seconds) && seconds >= 0 ? seconds * 1000 : null;
}
