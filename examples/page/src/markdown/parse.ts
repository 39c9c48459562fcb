import MarkdownIt from "markdown-it";

/** Raw HTML stays text, and addresses in the text become links. */
const markdown = new MarkdownIt({ html: false, linkify: true, breaks: true });

export type Token = ReturnType<typeof markdown.parse>[number];

/** A block at the top level. */
export interface Block {
  tokens: Token[];
  /** Where it begins in the text. */
  offset: number;
}

/** A line may at first look like a block of its own and then belong to the one before, such as `#` that becomes `#1`. */
const OPEN_BLOCKS = 2;

/**
 * The blocks of a text that grows. More text changes the last blocks only, so that a long answer is not parsed again for each
 * token; a block that stays is the same object. Link definitions reach only the text after them.
 */
export class GrowingText {
  private text = "";
  private blocks: Block[] = [];
  private environment: Record<string, unknown> = {};

  update(text: string): Block[] {
    if (!text.startsWith(this.text)) [this.blocks, this.environment] = [[], {}];
    const kept = this.blocks.slice(0, -OPEN_BLOCKS);
    const offset = kept.length ? this.blocks[kept.length]!.offset : 0;
    this.text = text;
    this.blocks = [...kept, ...parse(text, offset, this.environment)];
    return this.blocks;
  }
}

function parse(text: string, offset: number, environment: Record<string, unknown>): Block[] {
  const rest = text.slice(offset);
  const blocks: Block[] = [];
  let open: Token[] = [];
  for (const token of markdown.parse(rest, environment)) {
    open.push(token);
    if (token.level !== 0 || token.nesting === 1) continue;
    blocks.push({ tokens: open, offset: offset + lineStart(rest, open[0]?.map?.[0] ?? 0) });
    open = [];
  }
  return blocks;
}

function lineStart(text: string, line: number): number {
  let at = 0;
  for (let passed = 0; passed < line; passed += 1) at = text.indexOf("\n", at) + 1;
  return at;
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
