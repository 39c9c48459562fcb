"""`parley chat`: a chat in the terminal. It is an ordinary client of a Parley server, not part of the engine."""

from __future__ import annotations

import argparse

from parley_server.cli.chat.session import ChatOptions
from parley_server.cli.chat.terminal import chat


def run(options: argparse.Namespace) -> int:
    """Chat until the user leaves; the exit status."""
    return chat(
        ChatOptions(
            text=" ".join(options.text),
            address=options.address,
            model=options.model,
            conversation=options.conversation,
            end_user=options.end_user,
            api_key=options.api_key,
            reasoning=options.reasoning,
        )
    )
