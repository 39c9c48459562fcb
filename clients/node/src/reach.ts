/** Whether a client has ever reached a server, and how its errors say that it cannot. */

import { connectivityState, type Channel } from "@grpc/grpc-js";
import { ParleyError, type Code } from "./errors.js";
import { unavailable } from "./status.js";

// The codes of a call that has got no answer.
const OF_TRANSPORT: readonly Code[] = ["UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED"];

/** Of one wire; shared by all clients that use it. */
export class Reach {
  reached = false;

  constructor(
    private readonly address: string,
    private readonly tls: boolean,
  ) {}

  /** The error of a call that has ended over this channel: that no server is there, in place of the transport's words. */
  explain(error: ParleyError, channel: Channel): ParleyError {
    const ofTransport = error.reason === "" && OF_TRANSPORT.includes(error.code);
    if (!ofTransport) this.reached = true;
    const state = channel.getConnectivityState(false);
    // A channel whose connection was lost goes idle; one that could not connect does not. But a short time limit may
    // have passed before it has tried to.
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
