"""Runs callers through Envoy against a cluster whose parts are killed, paused, cut off and filled up; checks promises.

python -m benchmarks.siege [--minutes 30] [--streams 300] [--pace 2] [--every 20] [--seed 1] [--write-docs]
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import uvloop

from benchmarks.siege.callers import Callers
from benchmarks.siege.evidence import collect, wait_until_quiet
from benchmarks.siege.mishaps import plan, run_mishaps
from benchmarks.siege.report import Result, part, result_of
from benchmarks.siege.stand import Options, Stand
from benchmarks.siege.verdict import judge
from benchmarks.studies import keep
from tests.tools import ROOT

PAGE = ROOT / "docs/guarantees.md"


async def siege(folder: Path, options: Options, logs: Path | None = None) -> Result:
    """Run one siege in a new folder. Writes all logs to the folder `logs`, if it is given."""
    began = time.monotonic()
    async with Stand(folder, options) as stand:
        callers = Callers(f"127.0.0.1:{stand.envoy.port}", options)
        seconds = options.minutes * 60
        calling = asyncio.create_task(callers.run(seconds))
        done = await run_mishaps(stand, plan(options))
        await stand.repair()
        await calling
        missed = await wait_until_quiet(stand)
        await callers.close()
        if logs is not None:
            logs.mkdir(parents=True, exist_ok=True)
            for name, lines in stand.logs().items():
                (logs / f"{name}.log").write_text("\n".join(lines))
        evidence = await collect(stand, callers.transcripts, missed)
    return result_of(options, done, evidence, judge(evidence), met=callers.met, took_s=time.monotonic() - began)


def main() -> int:
    """Exit status 1 if a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--streams", type=int, default=300, help="callers")
    parser.add_argument("--pace", type=float, default=2.0, help="tokens per second of a reply")
    parser.add_argument("--every", type=float, default=20.0, help="seconds between two mishaps")
    parser.add_argument("--seed", type=int, default=1, help="of the sequence of mishaps, and of the callers' choices")
    parser.add_argument("--write-docs", action="store_true", help="write the part of docs/guarantees.md")
    parser.add_argument("--logs", type=Path, help="keep all logs in this folder")
    parser.add_argument("--json", type=Path, help="write the result to this file, too")
    given = vars(parser.parse_args())
    write_docs, file, logs = given.pop("write_docs"), given.pop("json"), given.pop("logs")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # the proxies have two sockets for each stream
    with tempfile.TemporaryDirectory(prefix="parley-siege-") as folder:
        result = uvloop.run(siege(Path(folder), Options(**given), logs))
    keep("siege", result, part(result), document=write_docs, page=PAGE)
    if file is not None:
        file.write_bytes(msgspec.json.encode(result))
    return 1 if result.violations else 0


if __name__ == "__main__":
    sys.exit(main())
