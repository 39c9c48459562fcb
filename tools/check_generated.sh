#!/bin/sh
# Fails if the committed generated code is not what the protos give. Usage: tools/check_generated.sh BUF
set -eu
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
"$1" generate --output "$fresh"
status=0
# Folders that hold nothing else are compared whole, so that a file whose source is gone is noticed.
(cd "$fresh" && find . -type d \( -path '*/parley/v1' -o -path '*/generated/java' \)) >"$fresh/.folders"
while read -r folder; do
    diff --recursive --unified --exclude=__pycache__ "$folder" "$fresh/$folder" >&2 || status=1
done <"$fresh/.folders"
(cd "$fresh" && find . -type f -not -name '.*' -not -path '*/parley/v1/*' -not -path '*/generated/java/*') >"$fresh/.files"
while read -r file; do
    diff --unified "$file" "$fresh/$file" >&2 || status=1
done <"$fresh/.files"
[ "$status" -eq 0 ] || echo "The generated code is not what the protos give: run \`make gen\` and commit it." >&2
exit "$status"
