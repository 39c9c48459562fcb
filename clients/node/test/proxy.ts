/** A TCP proxy that a test can cut and stall. It forwards all bytes in order. */

import { once } from "node:events";
import { connect, createServer, type AddressInfo, type Server, type Socket } from "node:net";

export class Proxy implements AsyncDisposable {
  /** Bytes received from the server. */
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

  /** The open connections. */
  get open(): number {
    return this.#sockets.size / 2;
  }

  /** Resets all connections. New ones are accepted. */
  cut(): void {
    for (const socket of this.#sockets) reset(socket);
  }

  /** Accepts connections and data but forwards nothing. The data is lost, so call `cut` afterwards. */
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

/** A socket that is shutting down must not be reset: Node 20 leaks it and hangs at the end of the process. */
function reset(socket: Socket): void {
  if (socket.writableEnded) socket.destroy();
  else socket.resetAndDestroy();
}
