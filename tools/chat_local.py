"""`make chat-local`: a chat with a small real model on this machine, through Parley, without an API key.

It starts llama.cpp's server, a Parley with this model and the chat page, and `parley chat`, and stops them at the end.
"""

from __future__ import annotations

import argparse
import http.client
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).parents[1]
PACKAGES = ROOT / ".tools/llama-cpp"
PARLEY = str(Path(sys.executable).with_name("parley"))
CONTEXT_TOKENS = 4096
# Threads of llama.cpp use CPU while they wait for each other, so some cores stay free; more are not faster.
THREADS = min(4, max(1, (os.cpu_count() or 1) // 2))
MODEL_START_S = 120.0
PARLEY_START_S = 30.0
STOP_S = 15.0
POLL_S = 0.1
CONFIGURATION = """\
listen = "127.0.0.1:{port}"
metrics_listen = ""
ui_listen = "127.0.0.1:{page_port}"
database_url = "sqlite+aiosqlite:///{database}"
log_level = "error"
log_format = "text"
[server]
drain_pause_s = 0
drain_grace_s = 0
[providers.llama]
kind = "openai"
base_url = "http://127.0.0.1:{model_port}/v1"
timeouts = {{ first_token = 100, idle = 100 }}
[models.smollm2]
provider = "llama"
name = "SmolLM2-135M-Instruct"
context_tokens = {context_tokens}
max_output_tokens = 1024
images = false
tools = false
json_schema = false
"""


def main() -> int:
    """Start all programs, chat until the user leaves, and stop them; returns the exit status."""
    parser = argparse.ArgumentParser(description="Chat with a small model on this machine.")
    parser.add_argument("--folder", type=Path, default=ROOT / ".tools/chat-local", help="for the conversations")
    parser.add_argument("--port", type=int, default=50051, help="of gRPC; another one if it is in use")
    parser.add_argument("--page-port", type=int, default=8080, help="of the page; another one if it is in use")
    options = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    with ExitStack() as running:
        try:
            return _chat(options, running)
        except KeyboardInterrupt:
            return 130


def _chat(options: argparse.Namespace, running: ExitStack) -> int:
    options.folder.mkdir(parents=True, exist_ok=True)
    _say("Starting SmolLM2-135M in llama.cpp: a real model, but a very small one ...")
    model_port = _port(0)
    _start_model(model_port, options.folder / "llama.log", running)
    addresses = _start_parley(options, model_port, running)
    _say(f"\n  Page:  {addresses['page']}\n  gRPC:  {addresses['grpc']}\n")
    _say("Ctrl-C stops an answer; at the prompt, it ends everything.\n")
    # Only the chat handles Ctrl-C: it stops an answer, or leaves. Started programs do not inherit this handler.
    signal.signal(signal.SIGINT, lambda *_: None)
    process = subprocess.Popen([PARLEY, "chat", "--address", addresses["grpc"]])
    running.callback(_stop, process)
    return process.wait()


def _start_model(port: int, log_file: Path, running: ExitStack) -> None:
    program = [sys.executable, str(ROOT / "tools/llama_server.py"), str(PACKAGES), f"--port={port}"]
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [*program, f"--context-tokens={CONTEXT_TOKENS}", f"--threads={THREADS}"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            process_group=0,  # so that Ctrl-C does not reach it
        )
    running.callback(_stop, process, signal.SIGKILL)  # it has no data to store
    waited_s = 0.0
    while not _is_healthy(port):
        if waited_s >= MODEL_START_S or process.poll() is not None:
            raise SystemExit(f"llama.cpp does not start; {log_file} says why")
        time.sleep(POLL_S)
        waited_s += POLL_S


def _is_healthy(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=MODEL_START_S)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _start_parley(options: argparse.Namespace, model_port: int, running: ExitStack) -> dict[str, str]:
    """Start Parley, and return the addresses of gRPC and of the page once it serves."""
    configuration = options.folder / "parley.toml"
    configuration.write_text(
        CONFIGURATION.format(
            port=_port(options.port),
            page_port=_port(options.page_port),
            database=options.folder.resolve() / "parley.db",
            model_port=model_port,
            context_tokens=CONTEXT_TOKENS,
        )
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PARLEY_")}
    process = subprocess.Popen(
        [PARLEY, "serve", "--config", str(configuration)],
        env=environment,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    running.callback(_stop, process)
    return _addresses(process)


def _addresses(process: subprocess.Popen[str]) -> dict[str, str]:
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read, args=(process, lines), daemon=True).start()
    found: dict[str, str] = {}
    patterns = {"grpc": r"Parley serves on (\S+);", "page": r"The chat page is (\S+)"}
    while found.keys() != patterns.keys():
        try:
            line = lines.get(timeout=PARLEY_START_S)
        except queue.Empty:
            line = ""
        if not line:
            raise SystemExit("Parley does not start")
        found |= {name: match[1] for name, pattern in patterns.items() if (match := re.search(pattern, line))}
    return found


def _read(process: subprocess.Popen[str], lines: queue.Queue[str]) -> None:
    """Pass lines on, and show warnings and errors. The last line is empty."""
    assert process.stderr is not None
    for line in process.stderr:
        if re.match(r"Parley serves on|The chat page is", line):
            lines.put(line)
        else:
            sys.stderr.write(line)
    lines.put("")


def _port(preferred: int) -> int:
    """This port of loopback if it is free, otherwise any free one."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise SystemExit("no port of 127.0.0.1 is free")


def _stop(process: subprocess.Popen[str] | subprocess.Popen[bytes], number: int = signal.SIGTERM) -> None:
    if process.poll() is not None:
        return
    process.send_signal(number)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _leave(number: int, _: object) -> NoReturn:
    raise SystemExit(128 + number)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
