#!/bin/sh
# Writes the newest compatible versions of all packages to FILE. Usage: tools/constraints.sh PYTHON FILE
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$1" -m venv "$folder"
"$folder/bin/python" -m pip install --quiet setuptools
"$folder/bin/python" -m pip install --quiet --no-build-isolation --editable clients/python --editable '.[dev,sbom]'
# redis needs it on Python before 3.11.3, such as that of Debian 12, on which the image may be based.
"$folder/bin/python" -m pip install --quiet async-timeout
{
    echo "# Pinned versions of everything that the server and its tools run on. \`make constraints\` renews it."
    "$folder/bin/python" -m pip list --format=freeze --exclude-editable --exclude pip --disable-pip-version-check
} >"$folder/constraints.txt"
cp "$folder/constraints.txt" "$2"
