import { defineComponent, h, type PropType } from "vue";
import { parse, type Block } from "../markdown/parse";
import { render } from "../markdown/render";

/** A text with markdown. While it grows, only the blocks that changed are made again. */
export default defineComponent({
  name: "MarkdownText",
  props: { text: { type: String, required: true } },
  setup(props) {
    let made: Block[] = [];
    return () => {
      made = parse(props.text).map((block, index) => {
        const before = made[index];
        return before?.source === block.source ? before : block;
      });
      const blocks = made.map((block, index) => h(MarkdownBlock, { key: index, block }));
      return h("div", { class: "markdown" }, blocks);
    };
  },
});

const MarkdownBlock = defineComponent({
  name: "MarkdownBlock",
  props: { block: { type: Object as PropType<Block>, required: true } },
  setup: (props) => () => render(props.block.tokens),
});
