#!/usr/bin/env bash
# Makes the virtual environment of the project with pinned versions. Usage: tools/setup.sh PYTHON FOLDER server|tools
# `server` installs what runs the server, `tools` also what tests and checks it. Packages come from where pip's own
# configuration says, and pip refuses a file whose hash is not in constraints.txt.
set -euo pipefail
python=$1 venv=$2 what=$3

fail() {
    printf '\n%s\n' "$1" >&2
    exit 1
}

show_progress() { # the name of each package, on lines of at most 100 characters; pip's warnings and errors as they are
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
        WARNING:) printf '\n%s %s %s\n' "$word" "$name" "$rest" >&2 ;;
        ERROR:) # and the lines that follow: for a wrong hash, the package and both hashes
            printf '\n%s %s %s\n' "$word" "$name" "$rest" >&2
            cat >&2
            ;;
        esac
    done
}

command -v "$python" >/dev/null || fail "Parley needs Python 3.11 or newer; '$python' was not found. Debian: apt-get install python3 python3-venv"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "Parley needs Python 3.11 or newer, and '$python' is $("$python" -V 2>&1). Another one: make setup PYTHON=python3.11"
case $what in
server) extra=ui description="the server's packages" ;;
tools) extra=dev description="the server's packages and the tools that test and check it" ;;
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
install=("$venv/bin/python" -m pip install --no-compile --disable-pip-version-check)
# Python's own pip may be older: such a pip does not take versions from constraints that have hashes.
"${install[@]}" --quiet --require-hashes --requirement tools/pip.txt
# setuptools builds Parley's own packages; it is pinned as well, so that no build fetches one of its own.
"$venv/bin/python" tools/dependencies.py setuptools "parley-server[$extra]" >"$venv/requirements.txt"
"${install[@]}" --require-hashes --constraint constraints.txt --requirement "$venv/requirements.txt" 2>&1 | show_progress
# Only files have hashes: Parley's own packages are folders, so they follow without their dependencies.
"${install[@]}" --quiet --no-deps --no-build-isolation --editable clients/python --editable .
