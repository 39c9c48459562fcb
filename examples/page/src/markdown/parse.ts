import MarkdownIt from "markdown-it";

/** Raw HTML stays text, and addresses in the text become links. */
const markdown = new MarkdownIt({ html: false, linkify: true, breaks: true });

export type Token = ReturnType<typeof markdown.parse>[number];

/** A block at the top level: its tokens and its source, by which unchanged blocks are recognised. */
export interface Block {
  source: string;
  tokens: Token[];
}

/** The blocks of a text, which may end anywhere, as that of a running reply does. */
export function parse(text: string): Block[] {
  const lines = text.split("\n");
  const blocks: Block[] = [];
  let open: Token[] = [];
  for (const token of markdown.parse(text, {})) {
    open.push(token);
    if (token.level !== 0 || token.nesting === 1) continue;
    const [from, to] = open[0]?.map ?? [0, lines.length];
    // Rendering depends on link definitions, too: they may stand in another block, so that they are part of the source.
    blocks.push({ source: lines.slice(from, to).join("\n") + addresses(open), tokens: open });
    open = [];
  }
  return blocks;
}

function addresses(tokens: Token[]): string {
  const children = tokens.flatMap((token) => token.children ?? []);
  return children.map((child) => child.attrGet("href") ?? child.attrGet("src") ?? "").join("\n");
}

/** The address, if a page may link to it: http and https only. */
export function safeAddress(href: string | number | null): string | null {
  if (typeof href !== "string") return null;
  try {
    const { protocol } = new URL(href);
    return protocol === "https:" || protocol === "http:" ? href : null;
  } catch {
    return null;
  }
}
