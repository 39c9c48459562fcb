#!/bin/sh
# Makes the virtual environment of the project with pinned versions. Usage: tools/setup.sh PYTHON FOLDER
# Where packages come from is up to pip's own configuration.
set -eu
python=$1 venv=$2

fail() {
    printf '\n%s\n' "$1" >&2
    exit 1
}

command -v "$python" >/dev/null || fail "Parley needs Python 3.11 or newer; '$python' was not found. Debian: apt-get install python3 python3-venv"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "Parley needs Python 3.11 or newer, and '$python' is $("$python" -V 2>&1). Another one: make setup PYTHON=python3.11"
if ! [ -x "$venv/bin/python" ] || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "Python's venv module is missing. Debian: apt-get install python3-venv"
    "$python" -m venv --clear "$venv"
fi
echo "Installing Parley and its tools into $venv (once) ..."
# The builder is pinned as well, and so no build fetches one of its own.
"$venv/bin/python" -m pip install --quiet --constraint constraints.txt setuptools
"$venv/bin/python" -m pip install --quiet --constraint constraints.txt --no-build-isolation \
    --editable clients/python --editable '.[dev]'
