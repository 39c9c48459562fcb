"""`parley serve`: runs the server in this process, or a supervisor with several worker processes."""

from __future__ import annotations

import argparse

from parley_server.cli.options import settings_source
from parley_server.process import outlive_hangups


def run(options: argparse.Namespace) -> int:
    """Serve until a signal stops it; the exit status."""
    outlive_hangups()
    try:
        return _serve(options)
    finally:
        outlive_hangups()  # the event loop has restored the default


def _serve(options: argparse.Namespace) -> int:
    source = settings_source(options)
    settings = source.load()
    if settings.workers > 1:
        from parley_server.workers import supervise  # the supervisor must stay small: it does not load the server

        return supervise(settings, source, config=options.config or "")
    from parley_server.serving import serve

    return serve(settings, source)
