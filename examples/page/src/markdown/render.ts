import { h, type VNodeArrayChildren } from "vue";
import CodeBlock from "../components/CodeBlock.vue";
import { safeAddress, type Token } from "./parse";

type Children = VNodeArrayChildren;

/** Elements without attributes that come from the text. What is in no list becomes its text. */
const PLAIN: Record<string, string> = {
  paragraph: "p",
  blockquote: "blockquote",
  bullet_list: "ul",
  list_item: "li",
  thead: "thead",
  tbody: "tbody",
  tr: "tr",
  em: "em",
  strong: "strong",
  s: "s",
};

/** Nodes made from an allow-list; no text ever becomes HTML. */
export function render(tokens: Token[]): Children {
  const root: Children = [];
  const stack: { token: Token; children: Children }[] = [];
  for (const token of tokens) {
    const siblings = stack.at(-1)?.children ?? root;
    if (token.nesting === 1) stack.push({ token, children: [] });
    else if (token.nesting === 0) siblings.push(...leaf(token));
    else {
      const closed = stack.pop();
      if (closed) (stack.at(-1)?.children ?? root).push(...element(closed.token, closed.children));
    }
  }
  return root;
}

function element(token: Token, children: Children): Children {
  if (token.hidden) return children;
  const name = token.type.replace(/_open$/, "");
  switch (name) {
    case "heading":
      // The page's own headings are h1 and h2.
      return [h(`h${Math.min(Number(token.tag.slice(1)) + 2, 6)}`, children)];
    case "ordered_list":
      return [h("ol", { start: Number(token.attrGet("start") ?? 1) }, children)];
    case "th":
    case "td":
      return [h(name, alignment(token), children)];
    case "table":
      return [h("div", { class: "scroll" }, [h("table", children)])];
    case "link":
      return link(token.attrGet("href"), children);
    default:
      return PLAIN[name] ? [h(PLAIN[name], children)] : children;
  }
}

function leaf(token: Token): Children {
  switch (token.type) {
    case "inline":
      return render(token.children ?? []);
    case "softbreak":
    case "hardbreak":
      return [h("br")];
    case "hr":
      return [h("hr")];
    case "code_inline":
      return [h("code", token.content)];
    case "fence":
    case "code_block":
      return [h(CodeBlock, { code: token.content, language: token.info.trim().split(/\s+/)[0] ?? "" })];
    case "image":
      // Loading it would tell its server who reads the answer, and when.
      return link(token.attrGet("src"), [`Image: ${token.content || "without a description"}`]);
    default:
      return [token.content];
  }
}

function link(href: string | number | null, children: Children): Children {
  const safe = safeAddress(href);
  if (!safe) return children;
  return [h("a", { href: safe, target: "_blank", rel: "noopener noreferrer" }, children)];
}

function alignment(token: Token): { class: string } | null {
  const side = /^text-align:(center|right)$/.exec(String(token.attrGet("style")))?.[1];
  return side ? { class: side } : null;
}
