#!/bin/sh
# Installs the gateways that the benchmarks compare Parley with into .tools, pinned: LiteLLM's proxy with pip, Portkey's
# with npm. Usage: tools/gateways.sh PYTHON. Where packages come from is up to pip's and npm's own configuration.
set -eu
python=$1
litellm=.tools/litellm
portkey=.tools/portkey

if ! cmp -s tools/litellm.txt "$litellm/installed.txt"; then
    echo "Installing LiteLLM's proxy into $litellm (once) ..."
    "$python" -m venv --clear "$litellm"
    "$litellm/bin/python" -m pip install --quiet --disable-pip-version-check --requirement tools/litellm.txt
    cp tools/litellm.txt "$litellm/installed.txt"
fi
if ! command -v npm >/dev/null; then
    echo "npm is not here, and so Portkey's gateway is left out. Debian: apt-get install npm" >&2
elif ! cmp -s tools/portkey.json "$portkey/package.json"; then
    echo "Installing Portkey's gateway into $portkey (once) ..."
    rm -rf "$portkey"
    mkdir -p "$portkey"
    cp tools/portkey.json "$portkey/package.json"
    npm install --prefix "$portkey" --no-package-lock --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null ||
        { rm -f "$portkey/package.json"; exit 1; }
fi
