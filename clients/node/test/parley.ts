/** A real Parley server in its own process. */

import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

/** The root of the package, seen from build/test. */
export const ROOT = fileURLToPath(new URL("../../", import.meta.url));
const BIN = process.env["PARLEY_BIN"] ?? join(ROOT, "../../.venv/bin/parley");

/** A priced model that takes images, one that does not, and one whose provider cannot be reached. */
const CONFIG = `
[providers.typewriter]
kind = "scripted"
[providers.gone]
kind = "openai"
base_url = "http://127.0.0.1:9/v1"
retries = 0
[models.scripted]
provider = "typewriter"
name = "scripted"
images = true
prices = { prompt = 2.0, completion = 8.0 }
[models.blind]
provider = "typewriter"
name = "scripted"
images = false
[models.unreachable]
provider = "gone"
name = "vendor/model"
fallback = ["scripted"]
[server]
default_model = "scripted"
`;

/** The database remains after `kill`; `start` starts the same server again. */
export class Parley implements AsyncDisposable {
  #process: ChildProcess | undefined;
  readonly #folder = mkdtempSync(join(tmpdir(), "parley-node-"));

  private constructor(
    readonly port: number,
    private readonly settings: Readonly<Record<string, string>>,
  ) {}

  static async start(settings: Readonly<Record<string, string>> = {}): Promise<Parley> {
    const parley = new Parley(await freePort(), settings);
    await parley.start();
    return parley;
  }

  get address(): string {
    return `127.0.0.1:${this.port}`;
  }

  async start(): Promise<void> {
    writeFileSync(join(this.#folder, "parley.toml"), CONFIG);
    const child = spawn(BIN, ["serve"], {
      cwd: this.#folder,
      env: {
        ...process.env,
        PARLEY_BIN: undefined, // the server refuses variables that it does not know
        PARLEY_CONFIG: join(this.#folder, "parley.toml"),
        PARLEY_LISTEN: this.address,
        PARLEY_METRICS_LISTEN: "",
        PARLEY_DATABASE_URL: `sqlite+aiosqlite:///${this.#folder}/parley.db`,
        ...this.settings,
      },
      stdio: ["ignore", "ignore", "pipe"],
    });
    this.#process = child;
    const log: string[] = [];
    const lines = createInterface({ input: child.stderr });
    await new Promise<void>((resolve, reject) => {
      lines.on("line", (line) => {
        if (log.length < 100) log.push(line);
        if (line.includes("Parley serves on")) resolve();
      });
      child.once("error", reject);
      child.once("exit", () => reject(new Error(`the server did not start:\n${log.join("\n")}`)));
    });
  }

  /** Ends the process with SIGKILL. */
  async kill(signal: NodeJS.Signals = "SIGKILL"): Promise<void> {
    const child = this.#process;
    this.#process = undefined;
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    child.kill(signal);
    await once(child, "exit");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
    rmSync(this.#folder, { recursive: true });
  }
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}

/** A script for the scripted model. */
export function script(fields: Record<string, unknown>): string {
  return `/script ${JSON.stringify(fields)}`;
}
