"""An example client: sends a message to a session and prints the answer.

Usage: python client.py URL TOKEN SESSION MESSAGE
"""

import http.client
import json
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from typing import Any


def events(request: urllib.request.Request) -> Iterator[dict[str, Any]]:
    """Yields the events of a stream. Other lines are empty, or comments that keep the connection open."""
    with urllib.request.urlopen(request, timeout=60) as answer:
        for line in answer:
            if line.startswith(b"data: "):
                yield json.loads(line.removeprefix(b"data: "))


def ask(url: str, token: str, session: str, message: str) -> None:
    """Prints the answer while it is written, and reconnects."""
    # The same key again attaches to the same answer, from its first word, whether or not the first request arrived.
    headers = {
        "Authorization": f"Bearer {token}",
        "Content-Type": "application/json",
        "Idempotency-Key": str(uuid.uuid4()),
    }
    body = json.dumps({"content": message}).encode()
    request = urllib.request.Request(f"{url}/api/chat-sessions/{session}/send-message", body, headers)
    printed = 0
    while True:
        text = ""
        try:
            for event in events(request):
                if event["type"] == "content":
                    text += event["data"]
                    print(text[printed:], end="", flush=True)
                    printed = max(printed, len(text))
                elif event["type"] in {"done", "cancelled", "error"}:
                    print(f"\n[{event['type']}] {event.get('error') or event.get('reason') or ''}")
                    return
        except urllib.error.HTTPError as refused:
            sys.exit(f"{refused.code}: {json.load(refused)['message']}")
        except (OSError, http.client.HTTPException):
            time.sleep(1)


if __name__ == "__main__":
    ask(*sys.argv[1:])
