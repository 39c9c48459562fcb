"""How much code each client has that was written by hand, without comments and imports. docs/adr/0010 says why.

Usage: python tools/client_sizes.py
"""

from __future__ import annotations

import io
import re
import sys
import tokenize
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
CLIENTS = {
    "Python": "clients/python/src/parley/*.py",
    "Node": "clients/node/src/*.ts",
    "Java": "clients/java/parley-client/src/main/java/dev/parley/client/**/*.java",
}
GENERATED = re.compile(r"(#|//) Generated .*Do not edit")
CONCERNS = ("stream", "errors", "calls", "types")
_CONCERN_OF = {
    "errors": r"_?(error|errors|status)|Failure|.*Exception",
    "stream": r"_?(stream|transcript|backoff|connection|reach|wire|call)|Follower|ReplyStream|ReplySubscription"
    r"|ReplyListener|Transcript|Backoff|Patience|Connection|Reach|Threads",
    "calls": r"_?(client|conversations)|ParleyClient|ParleyClientBuilder|Conversations|Pages|Identity|Settings",
}
_IMPORTS = {
    ".py": r"^(from|import) [^(\n]*(\([^)]*\))?\n",
    ".ts": r"^(import|export) [^;]*? from [^;]*;\n|^export \* from [^;]*;\n",
    ".java": r"^(import|package) [^;]*;\n",
}


def concern_of(path: Path) -> str:
    """Which part of a client a file belongs to."""
    for concern, names in _CONCERN_OF.items():
        if re.fullmatch(names, path.stem):
            return concern
    return "types"


@dataclass(frozen=True)
class Size:
    """Lines that say something, and lines that only close or open a bracket."""

    saying: int = 0
    brackets: int = 0

    def __add__(self, other: Size) -> Size:
        return Size(self.saying + other.saying, self.brackets + other.brackets)


def size_of(path: Path) -> Size:
    """The code in a file of one of the three languages; none where it is generated."""
    source = path.read_text()
    if GENERATED.match(source):
        return Size()
    plain = _without_docstrings(source) if path.suffix == ".py" else re.sub(r"/\*.*?\*/", "", source, flags=re.DOTALL)
    plain = re.sub(_IMPORTS[path.suffix], "", plain, flags=re.MULTILINE)
    comment = "#" if path.suffix == ".py" else "//"
    code = [line for line in plain.splitlines() if line.strip() and not line.strip().startswith(comment)]
    saying = sum(1 for line in code if re.search(r"\w", line))
    return Size(saying, len(code) - saying)


def sizes() -> dict[str, dict[str, Size]]:
    """The code of each client, by concern."""
    found = {client: dict.fromkeys(CONCERNS, Size()) for client in CLIENTS}
    for client, pattern in CLIENTS.items():
        for path in sorted(ROOT.glob(pattern)):
            found[client][concern_of(path)] += size_of(path)
    return found


def _without_docstrings(source: str) -> str:
    lines = source.splitlines(keepends=True)
    before = tokenize.NEWLINE
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.STRING and before in (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT):
            for number in range(token.start[0] - 1, token.end[0]):
                lines[number] = "\n"
        if token.type not in (tokenize.NL, tokenize.COMMENT):
            before = token.type
    return "".join(lines)


def main() -> int:
    """Prints the table of docs/adr/0010."""
    print("| client | " + " | ".join(CONCERNS) + " | in all | and brackets alone |")
    print("|---|" + "--:|" * (len(CONCERNS) + 2))
    for client, found in sizes().items():
        whole = sum(found.values(), Size())
        parts = " | ".join(str(found[each].saying) for each in CONCERNS)
        print(f"| {client} | {parts} | {whole.saying} | {whole.brackets} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
