"""How names, texts and types are written in each language."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

# Names in backticks; those of metadata are the same in each language.
_NAMES = re.compile(r"(metadata )?`([a-zA-Z_]+)`")
_UNITS = {
    "python": {"retry_after": "retry_after_s", "delay": "delay_s"},
    "node": {"retry_after": "retryAfterMs", "delay": "delayMs"},
    "java": {},
}
TYPES = {
    "python": {
        "string": "str",
        "int": "int",
        "bool": "bool",
        "strings": "tuple[str, ...]",
        "Usage": "resources_pb2.Usage",
        "Reply": "resources_pb2.Reply",
        "duration": "float",
        "error": "ParleyError",
        "finish": "str",
        "map": "Mapping[str, str]",
        "tool calls": "tuple[ToolCall, ...]",
        "end": "Finished | None",
    },
    "node": {
        "string": "string",
        "int": "number",
        "bool": "boolean",
        "strings": "readonly string[]",
        "duration": "number",
        "error": "ParleyError",
        "finish": "FinishName",
        "map": "Readonly<Record<string, string>>",
        "tool calls": "readonly ToolCall[]",
        "end": "Finished | undefined",
    },
    "java": {
        "string": "String",
        "int": "int",
        "bool": "boolean",
        "strings": "List<String>",
        "duration": "Duration",
        "error": "ParleyException",
        "finish": "String",
        "backoff": "Backoff",
        "tool calls": "List<ReplyEvent.ToolCall>",
        "end": "Optional<ReplyEvent.Finished>",
    },
}
# What a field is where nobody has set it.
ZEROS = {
    "python": {"string": '""', "int": "0", "bool": "False", "map": "None"},
    "node": {"string": '""', "int": "0"},
    "java": {"string": '""', "int": "0", "Usage": "Usage.getDefaultInstance()"},
}


def camel(name: str) -> str:
    """`reply_id` as `replyId`."""
    head, *rest = name.split("_")
    return head + "".join(word.capitalize() for word in rest)


def pascal(name: str) -> str:
    """`reply_id` as `ReplyId`."""
    return name[:1].upper() + camel(name)[1:]


def kind(name: str) -> str:
    """`ToolCall` as `toolCall`."""
    return name[:1].lower() + name[1:]


class Words:
    """The filters of one language's templates."""

    def __init__(self, language: str) -> None:
        self._language = language

    def name(self, name: str, of_type: str = "") -> str:
        """A field's name, with its unit."""
        name = _UNITS[self._language].get(name, name) if of_type in {"", "duration"} else name
        return name if self._language == "python" else camel(name)

    def type(self, name: str) -> str:
        """A type's name."""
        return TYPES[self._language].get(name, name)

    def zero(self, name: str) -> str:
        """What a field of this type is by itself."""
        return ZEROS[self._language].get(name, "None" if self._language == "python" else "undefined")

    def prose(self, text: str) -> str:
        """A text with its names as the language has them."""

        def renamed(match: re.Match[str]) -> str:
            before, name = match.group(1) or "", match.group(2)
            name = name if before else self.name(name)
            return before + (f"{{@code {name}}}" if self._language == "java" else f"`{name}`")

        return _NAMES.sub(renamed, text)

    def plain(self, text: str) -> str:
        """As `prose`, for a drawing."""
        return re.sub(r"\{@code (\w+)\}", r"\1", self.prose(text))


def docstring(text: str, indent: int) -> str:
    """The inside of a docstring of Python, whose quotes stand at this indentation."""
    lines = _lines(text.replace("\\", "\\\\"), 120 - indent, spare=6)
    return f"\n{' ' * indent}".join([*lines, ""] if len(lines) > 1 else lines)


def comment(text: str, indent: int, notes: Sequence[str] = (), *, width: int = 120) -> str:
    """A comment of Java or TypeScript, which begins at this indentation; notes stand below."""
    margin = "\n" + " " * indent
    lines = _lines(text, width - indent, spare=7)
    if len(lines) == 1 and not notes:
        return f"/** {text} */"
    marked = [f" * {line}".rstrip() for line in [*lines, *([""] if notes else []), *notes]]
    return margin.join(["/**", *marked, " */"])


def note(text: str) -> str:
    """A sentence as part of another one."""
    return text[:1].lower() + text[1:].rstrip(".")


def _lines(text: str, width: int, *, spare: int) -> list[str]:
    """One line where it fits with what stands around it, else several of them."""
    if len(text) + spare <= width:
        return [text]
    # A tag of Java's is not to be broken.
    whole = re.sub(r"\{@code (\w+)\}", "{@code\u00a0\\1}", text)
    lines = textwrap.wrap(whole, width - 3, break_on_hyphens=False, break_long_words=False)
    return [line.replace("\u00a0", " ") for line in lines]
