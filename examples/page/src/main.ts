import { createApp } from "vue";
import App from "./App.vue";
import "./styles/base.css";
import "./styles/controls.css";
import "./styles/markdown.css";

createApp(App).mount("#app");
