import { defineComponent, h, type PropType } from "vue";
import { GrowingText, type Block } from "../markdown/parse";
import { render } from "../markdown/render";

/** A text with markdown. While it grows, only its last blocks are made again. */
export default defineComponent({
  name: "MarkdownText",
  props: { text: { type: String, required: true } },
  setup(props) {
    const growing = new GrowingText();
    return () => {
      const blocks = growing
        .update(props.text)
        .map((block, index) => h(MarkdownBlock, { key: index, block }));
      return h("div", { class: "markdown" }, blocks);
    };
  },
});

const MarkdownBlock = defineComponent({
  name: "MarkdownBlock",
  props: { block: { type: Object as PropType<Block>, required: true } },
  setup: (props) => () => render(props.block.tokens),
});
