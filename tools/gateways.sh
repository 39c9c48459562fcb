#!/bin/sh
# Installs the pinned gateways of the benchmarks into .tools: LiteLLM's proxy with pip, Portkey's with npm.
# Usage: tools/gateways.sh PYTHON. The configuration of pip and npm decides where packages come from.
set -eu
python=$1
litellm=.tools/litellm
portkey=.tools/portkey

if ! cmp -s benchmarks/pins/litellm.txt "$litellm/installed.txt"; then
    echo "Installing LiteLLM's proxy into $litellm (once) ..."
    "$python" -m venv --clear "$litellm"
    # The list is complete; without this option, an older pip does not take versions from it for requirements with extras.
    "$litellm/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
        --require-hashes --requirement benchmarks/pins/litellm.txt
    cp benchmarks/pins/litellm.txt "$litellm/installed.txt"
fi
if ! command -v npm >/dev/null; then
    echo "Skipped Portkey's gateway: npm is not installed. Debian: apt-get install npm" >&2
elif ! cmp -s benchmarks/pins/portkey.json "$portkey/package.json"; then
    echo "Installing Portkey's gateway into $portkey (once) ..."
    rm -rf "$portkey"
    mkdir -p "$portkey"
    cp benchmarks/pins/portkey.json "$portkey/package.json"
    npm install --prefix "$portkey" --no-package-lock --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null ||
        { rm -f "$portkey/package.json"; exit 1; }
fi
