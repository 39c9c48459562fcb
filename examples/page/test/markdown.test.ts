import { expect, test } from "vitest";
import { createSSRApp, h } from "vue";
import { renderToString } from "vue/server-renderer";
import MarkdownText from "../src/components/MarkdownText";
import { GrowingText, type Block } from "../src/markdown/parse";
import { render } from "../src/markdown/render";

async function html(text: string): Promise<string> {
  const rendered = await renderToString(createSSRApp({ render: () => h(MarkdownText, { text }) }));
  return rendered.replace(/<!--.*?-->/g, "").replace(/ data-v-\w+(="")?/g, "");
}

const ALLOWED = new Set(
  "div p br hr h3 h4 h5 h6 ul ol li blockquote em strong s code pre a table thead tbody tr th td span button svg path".split(
    " ",
  ),
);
const ATTRIBUTES = new Set(
  "class href target rel start type tabindex aria-label aria-live aria-hidden focusable viewbox width height d fill stroke stroke-width stroke-linecap stroke-linejoin".split(
    " ",
  ),
);

function foreign(rendered: string): string[] {
  const tags = [...rendered.matchAll(/<([a-z][\w-]*)((?:\s+[\w:-]+(?:="[^"]*")?)*)\s*\/?>/gi)];
  expect(tags.length).toBe(rendered.match(/<[a-z]/gi)?.length ?? 0);
  return tags.flatMap(([, name, attributes]) => [
    ...(ALLOWED.has(name!) ? [] : [name!]),
    ...[...attributes!.matchAll(/\s([\w:-]+)="/g)]
      .map((match) => match[1]!)
      .filter((each) => !ATTRIBUTES.has(each)),
  ]);
}

test.each([
  `<img src=x onerror=alert(1)>`,
  `<script>alert(1)</script>`,
  `<svg onload=alert(1)><a href="javascript:alert(1)">x</a></svg>`,
  `[x](javascript:alert(1)) [y](JaVaScRiPt:alert(1)) [z](&#106;avascript:alert(1))`,
  `[x](data:text/html;base64,PHNjcmlwdD4=) [y](vbscript:x) [z](file:///etc/passwd) [w](//evil.example)`,
  `[a](ftp://files.example/x) [b](mailto:ada@example.com) [c](tel:123) ada@example.com <mailto:ben@example.com>`,
  `<javascript:alert(1)> <https://example.com/"onmouseover="alert(1)>`,
  `![x](https://tracker.example/pixel.png) ![y](javascript:alert(1))`,
  `[x]: javascript:alert(1)\n\n[x]`,
  `<iframe src="https://evil.example"></iframe>\n\n<style>*{display:none}</style>`,
  '```html"><img src=x onerror=alert(1)>\n<img src=x onerror=alert(1)>\n```',
  "| a |\n|--|\n| <b onclick=alert(1)>x</b> |",
])("S0.12 %s makes allowed nodes only", async (text) => {
  const rendered = await html(text);
  expect(foreign(rendered)).toEqual([]);
  for (const [, href] of rendered.matchAll(/href="([^"]*)"/g)) expect(href).toMatch(/^https?:\/\//);
});

test("links open outside, without telling where they come from", async () => {
  expect(await html("[a](https://example.com/?q=1&r=2)")).toContain(
    '<a href="https://example.com/?q=1&amp;r=2" target="_blank" rel="noopener noreferrer">a</a>',
  );
  expect(await html("see https://example.com now")).toContain(
    '<a href="https://example.com" target="_blank"',
  );
  expect(await html("[a](/delete-everything)")).not.toContain("<a");
});

test("pictures are links, and are not loaded", async () => {
  const rendered = await html("![a cat](https://example.com/cat.png)");
  expect(rendered).not.toContain("<img");
  expect(rendered).toContain(">Image: a cat</a>");
});

test("raw HTML is shown as text", async () => {
  expect(await html("<b>bold</b>")).toContain("&lt;b&gt;bold&lt;/b&gt;");
});

test.each([
  ["# One\n\n## Two", "<h3>One</h3><h4>Two</h4>"],
  ["a **b** *c* ~~d~~ `e`", "<p>a <strong>b</strong> <em>c</em> <s>d</s> <code>e</code></p>"],
  ["a\nb", "<p>a<br>b</p>"],
  ["3. a\n4. b", '<ol start="3"><li>a</li><li>b</li></ol>'],
  ["- a\n  - b", "<ul><li>a<ul><li>b</li></ul></li></ul>"],
  ["> a", "<blockquote><p>a</p></blockquote>"],
  ["---", "<hr>"],
  [
    "| a | b |\n|---|--:|\n| 1 | 2 |",
    '<div class="scroll"><table><thead><tr><th>a</th><th class="right">b</th></tr></thead>' +
      '<tbody><tr><td>1</td><td class="right">2</td></tr></tbody></table></div>',
  ],
])("%j", async (text, expected) => expect(await html(text)).toBe(`<div class="markdown">${expected}</div>`));

test("code keeps every character and can be copied", async () => {
  const rendered = await html("```python\nif a < b:\n    print('x')\n```");
  expect(rendered).toContain("<code>if a &lt; b:\n    print(&#39;x&#39;)\n</code>");
  expect(rendered).toContain("<span>python</span>");
  expect(rendered).toContain('aria-label="Copy the code"');
});

test("a text that ends anywhere can be shown", async () => {
  const text =
    "# T\n\n**b** [a](https://x.example) \n\n```js\nlet a = `1`;\n```\n\n| a |\n|--|\n| b |\n\n1. x\n   - y";
  for (let end = 0; end <= text.length; end += 1) expect(foreign(await html(text.slice(0, end)))).toEqual([]);
});

const TEXTS = [
  "# T\n\npara\n#1 more\n***bold*** on\n\n- a\n\n  b\n- c\n1. d\n   - e\n\n> q\nlazy\n\nSetext\n---\n\nafter",
  "p\n\n```js\n# no heading\n\n- no list\n```\nq\n\n| a | b |\n|--|--|\n| 1 | 2 |\n\n    code\n\nend\r\nof\r\n\r\ntext",
  "* one\n* **two**\n\n\n* three\n\n***\n\n~~~\nopen fence with 🔑\n\n",
];

test.each(TEXTS)("growing letter by letter gives the same as parsing the whole: %j", (text) => {
  const growing = new GrowingText();
  for (let end = 1; end <= text.length; end += 1) {
    const tokens = (blocks: Block[]) => blocks.map((block) => render(block.tokens));
    const whole = new GrowingText().update(text.slice(0, end));
    expect(plain(tokens(growing.update(text.slice(0, end))))).toEqual(plain(tokens(whole)));
  }
});

/** Names, attributes and texts of nodes, without what Vue adds. */
function plain(nodes: unknown): unknown {
  if (Array.isArray(nodes)) return nodes.map(plain);
  if (typeof nodes !== "object" || nodes === null) return nodes;
  const { type, props, children } = nodes as { type: unknown; props: unknown; children: unknown };
  return [typeof type === "string" ? type : "component", props, plain(children)];
}

test("a block that is complete is not parsed again", () => {
  const growing = new GrowingText();
  const [first] = growing.update("one\n\ntwo\n\nthree");
  expect(growing.update("one\n\ntwo\n\nthree\n\nfour")[0]).toBe(first);
  expect(growing.update("other\n\ntwo\n\nthree\n\nfour")[0]).not.toBe(first);
});
