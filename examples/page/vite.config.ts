import vue from "@vitejs/plugin-vue";
import { defineConfig } from "vitest/config";

/** The backend that `npm run dev` sends the page's requests to. */
const backend = process.env["CHAT_BACKEND"] ?? "http://127.0.0.1:3000";

export default defineConfig({
  plugins: [vue()],
  build: {
    // A data: URL for a small file would need `data:` in more rules of the content security policy.
    assetsInlineLimit: 0,
    license: { fileName: "licenses.md" }, // licences of the bundled packages must go with their code
    modulePreload: { polyfill: false },
    rolldownOptions: { checks: { pluginTimings: false } }, // a busy machine is no fault of the page
    target: "es2022",
  },
  server: { proxy: { "/api": backend } },
  test: { include: ["test/**/*.test.ts"], testTimeout: 20_000 },
});
