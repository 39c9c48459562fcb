#!/bin/sh
# Installs a pinned buf into .tools with npm, or with Go if there is no npm.
set -eu
version=1.75.0
link=.tools/node_modules/.bin/buf

mkdir -p .tools
if command -v npm >/dev/null; then
    npm install --prefix .tools --no-save --no-audit --no-fund --loglevel=error "@bufbuild/buf@$version" >/dev/null
elif command -v go >/dev/null; then
    GOBIN="$PWD/.tools/bin" go install "github.com/bufbuild/buf/cmd/buf@v$version"
    mkdir -p .tools/node_modules/.bin
    ln -sf ../../bin/buf "$link"
else
    echo "buf $version needs npm or Go to be installed. Debian: apt-get install npm" >&2
    exit 1
fi
touch "$link"
