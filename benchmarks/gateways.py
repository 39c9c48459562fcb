"""LiteLLM and Portkey, each in one process with its fastest documented settings; `make bench-full` installs them.

Both use OpenAI's HTTP API on both sides, store nothing, and accept a single key.
"""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.systems import ROOT, RunningSystem, Upstream, answers, free_address, launch, wait_until

LITELLM = ROOT / ".tools" / "litellm"
PORTKEY = ROOT / ".tools" / "portkey"
PORTKEY_SERVER = PORTKEY / "node_modules" / "@portkey-ai" / "gateway"
KEY = "sk-benchmark-0123456789abcdef0123456789abcdef"
BEARER = {"authorization": f"Bearer {KEY}"}


def litellm_version() -> str:
    """The version in .tools; empty if it is not installed."""
    found = sorted(LITELLM.glob("lib/python*/site-packages/litellm-*.dist-info"))
    return found[-1].name.removeprefix("litellm-").removesuffix(".dist-info") if found else ""


def portkey_version() -> str:
    """The version in .tools; empty if it is not installed."""
    package = PORTKEY_SERVER / "package.json"
    return str(json.loads(package.read_text())["version"]) if package.exists() else ""


def litellm_config(upstream: Upstream, models: list[str]) -> str:
    """The upstream's models, without callbacks, database, cache and retries; as JSON, which is valid YAML."""
    params = {"api_base": f"http://{upstream.address}/v1", "api_key": KEY}
    config = {
        "model_list": [
            {"model_name": name, "litellm_params": {"model": f"openai/{name}", **params}} for name in models
        ],
        "litellm_settings": {"callbacks": [], "num_retries": 0, "telemetry": False, "request_timeout": 600},
    }
    return json.dumps(config)


def start_litellm(folder: Path, upstream: Upstream, models: list[str]) -> RunningSystem:
    """LiteLLM's proxy as on its production page: one worker, its aiohttp transport, logs of errors only, no database.
    Its server is Granian, which uses 5 to 10 % less CPU here than the default, Uvicorn."""
    config = folder / "litellm.yaml"
    config.write_text(litellm_config(upstream, models))
    address = free_address()
    host, port = address.split(":")
    command = [str(LITELLM / "bin" / "litellm"), "--config", str(config), "--host", host, "--port", port]
    command += ["--num_workers", "1", "--run_granian"]
    env = {
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_LOG": "ERROR",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_MASTER_KEY": KEY,
        "AIOHTTP_CONNECTOR_LIMIT": "2000",
        "AIOHTTP_CONNECTOR_LIMIT_PER_HOST": "2000",
    }
    system = launch("litellm", command, address=address, folder=folder, env=env, headers=BEARER)
    wait_until(system, lambda: answers(f"http://{address}/health/liveliness"))
    return system


def start_portkey(folder: Path, upstream: Upstream, _models: list[str]) -> RunningSystem:
    """Portkey's gateway on Node, without its console; each request has the provider's address in a header."""
    address = free_address()
    program = str(PORTKEY_SERVER / "build" / "start-server.js")
    command = ["node", program, f"--port={address.split(':')[1]}", "--headless"]
    provider = {"x-portkey-provider": "openai", "x-portkey-custom-host": f"http://{upstream.address}/v1"}
    env = {"NODE_ENV": "production", "TRUSTED_CUSTOM_HOSTS": "127.0.0.1"}
    system = launch("portkey", command, address=address, folder=folder, env=env, headers=BEARER | provider)
    wait_until(system, lambda: answers(f"http://{address}/"))
    return system
