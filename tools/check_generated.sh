#!/bin/sh
# Fails if committed stubs differ from the protos. Usage: tools/check_generated.sh FOLDER BUF STUBS
set -eu
cd "$1"
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
"$2" generate --output "$fresh"
diff --recursive --unified --exclude=__pycache__ "$3" "$fresh/$3" >&2 || {
    echo "$1/$3 differs from the protos: run \`make gen\` and commit the result." >&2
    exit 1
}
