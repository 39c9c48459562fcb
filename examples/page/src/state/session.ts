import { reactive } from "vue";
import { PageApi } from "../api/page";
import type { Config } from "../api/types";
import { isWireName } from "../wire";
import { Fault } from "../wire/fault";
import { Http } from "../wire/http";
import { sentence } from "../text/sentences";
import { tabStorage } from "./storage";

export interface SessionView {
  stage: "starting" | "unreachable" | "login" | "ready";
  config: Config | null;
  /** Why the login did not work or is needed again. */
  notice: string;
  busy: boolean;
}

const CREDENTIAL = "credential";

/** Who uses the page: the backend's configuration and the credential, which is kept for this tab. */
export class Session {
  readonly view: SessionView = reactive({ stage: "starting", config: null, notice: "", busy: false });
  readonly http: Http;
  readonly api: PageApi;
  private credential = tabStorage.get(CREDENTIAL);

  constructor() {
    this.http = new Http({
      credential: () => this.credential,
      onUnauthenticated: () => this.expire(),
    });
    this.api = new PageApi(this.http);
  }

  async start(): Promise<void> {
    try {
      const config = await this.api.config();
      if (!isWireName(config.wire)) throw new Error(`this page has no wire ${config.wire}`);
      this.view.config = config;
      this.view.stage = config.login !== "none" && !this.credential ? "login" : "ready";
    } catch (error) {
      this.view.notice = error instanceof Fault ? sentence(error.failure) : String(error);
      this.view.stage = "unreachable";
    }
  }

  /** `entry` is a name for a demo login, else a token or an API key, which is tried before it is kept. */
  async login(entry: string): Promise<void> {
    this.view.busy = true;
    this.view.notice = "";
    try {
      this.keep(this.view.config?.login === "demo" ? await this.api.login(entry) : entry);
      await this.api.conversations();
      this.view.stage = "ready";
    } catch (error) {
      this.keep(null);
      this.view.notice = loginProblem(error, this.view.config?.login === "api_key");
    } finally {
      this.view.busy = false;
    }
  }

  logout(): void {
    this.keep(null);
    this.view.notice = "";
    this.view.stage = "login";
  }

  private expire(): void {
    if (this.view.stage !== "ready" || this.view.config?.login === "none") return;
    this.keep(null);
    this.view.notice = "Your session has ended. Please sign in again.";
    this.view.stage = "login";
  }

  private keep(credential: string | null): void {
    this.credential = credential;
    tabStorage.set(CREDENTIAL, credential);
  }
}

function loginProblem(error: unknown, apiKey: boolean): string {
  if (!(error instanceof Fault)) throw error;
  if (error.status === 401 || error.status === 403) {
    return apiKey ? "This API key is not valid." : "This token is not valid, or it has expired.";
  }
  return sentence(error.failure);
}
