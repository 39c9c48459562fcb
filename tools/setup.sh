#!/usr/bin/env bash
# Makes the virtual environment of the project with pinned versions. Usage: tools/setup.sh PYTHON FOLDER server|tools
# `server` installs what runs the server, `tools` also what tests and checks it. Packages come from where pip's own
# configuration says.
set -euo pipefail
python=$1 venv=$2 what=$3

fail() {
    printf '\n%s\n' "$1" >&2
    exit 1
}

show_progress() { # the name of each package, on lines of at most 100 characters; pip's warnings as they are
    local word name rest width=100
    while read -r word name rest; do
        case $word in
        Collecting)
            name=${name%%[=<>!~;[]*}
            if ((width + ${#name} > 98)); then printf '%s  ' "${started:+$'\n'}" && width=2 started=1; fi
            printf '%s ' "$name"
            width=$((width + ${#name} + 1))
            ;;
        Installing) printf '\n  unpacking them ...\n' ;;
        ERROR: | WARNING:) printf '\n%s %s %s\n' "$word" "$name" "$rest" >&2 ;;
        esac
    done
}

command -v "$python" >/dev/null || fail "Parley needs Python 3.11 or newer; '$python' was not found. Debian: apt-get install python3 python3-venv"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "Parley needs Python 3.11 or newer, and '$python' is $("$python" -V 2>&1). Another one: make setup PYTHON=python3.11"
case $what in
server) packages='.[ui]' description="the server's packages" ;;
tools) packages='.[dev]' description="the server's packages and the tools that test and check it" ;;
*) fail "Usage: tools/setup.sh PYTHON FOLDER server|tools" ;;
esac
if ! [ -x "$venv/bin/python" ] || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "Python's venv module is missing. Debian: apt-get install python3-venv"
    echo "Making $venv (once) ..."
    "$python" -m venv --clear "$venv"
fi
echo "Installing $description into $venv (once):"
# Modules are compiled at their first import: compiling all of them here takes longer than unpacking them.
options=(--constraint constraints.txt --no-compile --disable-pip-version-check)
# The builder is pinned as well, so that no build fetches one of its own.
"$venv/bin/python" -m pip install --quiet "${options[@]}" setuptools
"$venv/bin/python" -m pip install "${options[@]}" --no-build-isolation \
    --editable clients/python --editable "$packages" 2>&1 | show_progress
