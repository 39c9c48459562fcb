/** Detects whether a client has ever reached a server, and words the errors of unreachable servers. */

import { connectivityState, type Channel } from "@grpc/grpc-js";
import { ParleyError, type Code } from "./errors.js";
import { unavailable } from "./status.js";

// The codes of a call without an answer from a server.
const OF_TRANSPORT: readonly Code[] = ["UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED"];

/** The state of one wire, shared by all clients that use it. */
export class Reach {
  reached = false;

  constructor(
    private readonly address: string,
    private readonly tls: boolean,
  ) {}

  /** Replaces an error of the transport by one that names the server's address; returns other errors unchanged. */
  explain(error: ParleyError, channel: Channel): ParleyError {
    const ofTransport = error.reason === "" && OF_TRANSPORT.includes(error.code);
    if (!ofTransport) this.reached = true;
    const state = channel.getConnectivityState(false);
    // A channel becomes idle when its connection is lost, but not when it could not connect. Only UNAVAILABLE shows
    // that it has tried: a short time limit may have passed before.
    this.reached ||= state === connectivityState.READY;
    this.reached ||= state === connectivityState.IDLE && error.code === "UNAVAILABLE";
    if (!ofTransport || (this.reached && error.code !== "UNAVAILABLE")) return error;
    const withTls = this.tls ? "; with TLS, the client must trust its certificate" : "";
    const message = this.reached
      ? `the Parley server at ${this.address} cannot be reached`
      : `no Parley server at ${this.address}; start one with \`parley serve\`${withTls}`;
    return unavailable(message, true, error);
  }
}
