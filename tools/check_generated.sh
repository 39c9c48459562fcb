#!/bin/sh
# Fails if the committed generated code is not what the protos give. Usage: tools/check_generated.sh BUF
set -eu
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
"$1" generate --output "$fresh"
status=0
(cd "$fresh" && find . -type d -path '*/parley/v1') >"$fresh/folders"
while read -r folder; do
    diff --recursive --unified --exclude=__pycache__ "$folder" "$fresh/$folder" >&2 || status=1
done <"$fresh/folders"
[ "$status" -eq 0 ] || echo "The generated code is not what the protos give: run \`make gen\` and commit it." >&2
exit "$status"
