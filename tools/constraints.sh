#!/bin/sh
# Writes constraints.txt: versions of all packages that fit together, each with the hashes of all its files, for every
# platform; and tools/pip.txt, the same for pip. Usage: tools/constraints.sh PYTHON [OPTION...]
# Pinned versions and their hashes stay unless an option changes them: `--upgrade` for all packages,
# `--upgrade-package NAME` for one. Packages come from where pip's own configuration says; no file names that place.
set -eu
cd "$(dirname "$0")/.."
python=$1
shift
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

setting() { # of pip on this machine: of its environment, otherwise of its files
    "$folder/bin/python" -m pip config list | sed -nE "s/^(:env:|global)\.$1='(.*)'\$/\2/p" | head -1
}

compile() { # requirements from the standard input, pinned in FILE
    file=$1
    shift
    "$folder/bin/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
        --custom-compile-command "make constraints" --output-file "$file" "$@" - >/dev/null
}

"$python" -m venv "$folder"
"$folder/bin/python" -m pip install --quiet --require-hashes --requirement tools/pip.txt
"$folder/bin/python" -m pip install --quiet --require-hashes --constraint constraints.txt uv
index=${UV_DEFAULT_INDEX:-$(setting index-url)}
certificates=${SSL_CERT_FILE:-$(setting cert)}
if [ -n "$index" ]; then export UV_DEFAULT_INDEX="$index"; fi
if [ -n "$certificates" ]; then export SSL_CERT_FILE="$certificates"; fi
# Copies, so that a failure changes nothing.
cp constraints.txt "$folder/constraints.txt"
cp tools/pip.txt "$folder/pip.txt"
"$python" tools/dependencies.py 'parley-server[dev,sbom]' setuptools uv >"$folder/requirements"
compile "$folder/constraints.txt" "$@" <"$folder/requirements"
echo pip | compile "$folder/pip.txt" "$@"
cp "$folder/constraints.txt" constraints.txt
cp "$folder/pip.txt" tools/pip.txt
