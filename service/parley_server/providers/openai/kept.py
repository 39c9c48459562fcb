"""Collects what a vendor requires back with an assistant message, beyond its text and its tool calls."""

from __future__ import annotations

from typing import Any

import msgspec

from parley_server.providers.reading.kept import MAX_KEPT_BYTES
from parley_server.providers.reading.tool_calls import Call, ToolCalls

Json = dict[str, Any]

_STREAMED = {"reasoning.text": "text", "reasoning.summary": "summary"}
"""Types of reasoning details that come in pieces, with the field that is continued."""


class KeptMessage:
    """The reasoning details and the extra content of the calls of one answer."""

    def __init__(self) -> None:
        self._details: list[Json] = []
        self._size_bytes = 0

    def add_details(self, details: object) -> None:
        """Add the `reasoning_details` of a delta. A piece continues the one before it if type and index are equal."""
        for piece in details if isinstance(details, list) else ():
            if not isinstance(piece, dict) or self._size_bytes > MAX_KEPT_BYTES:
                continue
            field = _STREAMED.get(str(piece.get("type")), "")
            self._size_bytes += len(str(piece.get(field or "data")))
            last = self._details[-1] if self._details else {}
            if field and (last.get("type"), last.get("index")) == (piece["type"], piece.get("index")):
                text = str(last.get(field) or "") + str(piece.get(field) or "")
                last.update({name: value for name, value in piece.items() if value is not None} | {field: text})
            else:
                self._details.append(dict(piece))

    def fields(self, tools: ToolCalls) -> str:
        """The fields that replace those of the message when it is sent back, as a JSON object; empty if none are
        needed, or if the details are too large to be kept."""
        calls = [_call_of(call) for call in tools.pushed]
        if self._size_bytes > MAX_KEPT_BYTES or not (self._details or any("extra_content" in call for call in calls)):
            return ""
        fields: Json = {"tool_calls": calls}
        if self._details:
            fields["reasoning_details"] = self._details
        return msgspec.json.encode(fields).decode()


def _call_of(call: Call) -> Json:
    function = {"name": call.name, "arguments": call.arguments.text or "{}"}
    sent = {"id": call.sent_id, "type": "function", "function": function}
    return sent if call.extra is None else sent | {"extra_content": call.extra}
