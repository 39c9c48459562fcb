#!/bin/sh
# Fails if the committed stubs differ from what the protos give. Usage: tools/check_generated.sh BUF
set -eu
stubs=clients/python/src/parley/v1
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
"$1" generate --output "$fresh"
diff --recursive --unified --exclude=__pycache__ "$stubs" "$fresh/$stubs" >&2 || {
    echo "The committed stubs differ from the protos: run \`make gen\` and commit the result." >&2
    exit 1
}
