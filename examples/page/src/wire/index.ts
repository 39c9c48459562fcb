import { ChunksWire } from "./chunks";
import type { Wire } from "./events";
import type { Http } from "./http";
import { ImageWire } from "./image";
import { NegotiateWire } from "./negotiate";
import { PageWire } from "./page";
import { SessionsWire } from "./sessions";
import { TasksWire } from "./tasks";

const WIRES = {
  page: PageWire,
  tasks: TasksWire,
  sessions: SessionsWire,
  image: ImageWire,
  chunks: ChunksWire,
  negotiate: NegotiateWire,
};

export type WireName = keyof typeof WIRES;

export function isWireName(name: unknown): name is WireName {
  return typeof name === "string" && Object.hasOwn(WIRES, name);
}

export function openWire(name: WireName, http: Http): Wire {
  return new WIRES[name](http);
}
