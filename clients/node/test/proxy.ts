/** A wire that a test can cut and stall, between a client and a server on loopback. It changes no byte and no order. */

import { once } from "node:events";
import { connect, createServer, type AddressInfo, type Server, type Socket } from "node:net";

export class Proxy implements AsyncDisposable {
  /** Bytes that have come from the server. */
  received = 0;
  accepted = 0;
  #stalled = false;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();

  private constructor(targetPort: number) {
    this.#server = createServer((near) => {
      this.accepted += 1;
      const far = connect(targetPort, "127.0.0.1");
      this.#forward(near, far, () => {});
      this.#forward(far, near, (bytes) => (this.received += bytes));
    });
  }

  static async to(targetPort: number): Promise<Proxy> {
    const proxy = new Proxy(targetPort);
    proxy.#server.listen(0, "127.0.0.1");
    await once(proxy.#server, "listening");
    return proxy;
  }

  get address(): string {
    return `127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  /** Connections that are open. */
  get open(): number {
    return this.#sockets.size / 2;
  }

  /** Resets every connection, as a dying machine or load balancer does; new ones are welcome. */
  cut(): void {
    for (const socket of this.#sockets) reset(socket);
  }

  /** Goes on taking connections and data, and forwards nothing. What comes is lost, so end with `cut`. */
  stall(stalled = true): void {
    this.#stalled = stalled;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.close();
    this.cut();
    await once(this.#server, "close");
  }

  #forward(from: Socket, to: Socket, count: (bytes: number) => void): void {
    this.#sockets.add(from);
    from.setNoDelay(true);
    from.on("data", (data) => {
      if (this.#stalled) return;
      count(data.length);
      if (to.write(data)) return;
      from.pause();
      to.once("drain", () => from.resume());
    });
    from.on("end", () => to.end());
    from.on("error", () => reset(to));
    from.on("close", () => {
      this.#sockets.delete(from);
      if (!to.writableEnded) to.destroy();
    });
  }
}

/** A socket that is shutting down cannot be reset: Node 20 would leak it, and spin for ever as the process ends. */
function reset(socket: Socket): void {
  if (socket.writableEnded) socket.destroy();
  else socket.resetAndDestroy();
}
