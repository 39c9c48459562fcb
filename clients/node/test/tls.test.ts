/** TLS and mTLS with generated certificates, against a real Parley server. */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { Client, Unavailable, type TlsOptions } from "@parley/client";
import { Parley, script } from "./parley.js";

const KEY = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes".split(" ");
let folder: string;

function openssl(command: string, ...more: string[]): void {
  execFileSync("openssl", [...command.split(" "), ...more], { cwd: folder, stdio: "pipe" });
}

/** A certificate authority, and its certificates for a local server and a client. */
before(() => {
  folder = mkdtempSync(join(tmpdir(), "parley-tls-"));
  openssl("req -x509 -keyout ca.key -out ca.pem -days 2", ...KEY, "-subj", "/CN=test authority");
  writeFileSync(join(folder, "server.ext"), "subjectAltName=DNS:localhost\n");
  writeFileSync(join(folder, "client.ext"), "extendedKeyUsage=clientAuth\n");
  for (const name of ["server", "client"]) {
    openssl(`req -keyout ${name}.key -out ${name}.csr -subj /CN=${name}`, ...KEY);
    openssl(
      `x509 -req -in ${name}.csr -out ${name}.pem -extfile ${name}.ext -CA ca.pem -CAkey ca.key -CAcreateserial -days 2`,
    );
  }
});

after(() => rmSync(folder, { recursive: true }));

const read = (name: string) => readFileSync(join(folder, name));

async function serve(...files: [name: string, file: string][]): Promise<Parley> {
  const lines = files.map(([name, file]) => `${name} = ${JSON.stringify(join(folder, file))}`);
  writeFileSync(join(folder, "parley.toml"), ["[tls]", ...lines].join("\n"));
  return await Parley.start({ PARLEY_CONFIG: join(folder, "parley.toml") });
}

async function text(parley: Parley, tls: boolean | TlsOptions): Promise<string> {
  using client = new Client(`localhost:${parley.port}`, { tls, backoff: { maxElapsedMs: 0 } });
  const stream = client.streamReply(script({ text: "Sealed.", delay_s: 0 }));
  for await (const _ of stream);
  return stream.text;
}

test("only a server with a certificate of the given authority is trusted", async () => {
  await using parley = await serve(["certificate", "server.pem"], ["key", "server.key"]);
  assert.equal(await text(parley, { ca: read("ca.pem") }), "Sealed.");
  // Without TLS; with Node's root certificates; with another authority.
  for (const wrong of [false, true, { ca: read("client.pem") }]) {
    await assert.rejects(text(parley, wrong), Unavailable);
  }
});

test("a server that requires a client certificate gets it", async () => {
  const files = [
    ["certificate", "server.pem"],
    ["key", "server.key"],
    ["client_ca", "ca.pem"],
  ] satisfies [string, string][];
  await using parley = await serve(...files);
  const ca = read("ca.pem");
  assert.equal(await text(parley, { ca, cert: read("client.pem"), key: read("client.key") }), "Sealed.");
  await assert.rejects(text(parley, { ca }), Unavailable);
});
