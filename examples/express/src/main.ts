import { Client } from "@parley/client";
import { createApp } from "./app.js";

const client = new Client(process.env["PARLEY_ADDRESS"] ?? "127.0.0.1:50051", {
  apiKey: process.env["PARLEY_API_KEY"],
});
const server = createApp(client).listen(Number(process.env["PORT"] ?? 3000), "127.0.0.1", (error) => {
  if (error) throw error;
  const address = server.address();
  console.log(`http://127.0.0.1:${typeof address === "object" && address ? address.port : ""}`);
});

process.once("SIGTERM", () => {
  server.close();
  server.closeAllConnections(); // ends their calls, too
  client.close();
});
