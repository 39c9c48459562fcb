#!/bin/sh
# Builds the chat page (examples/page). Usage: tools/page.sh build|copy|check|test
# `build` makes examples/page/dist, which the examples serve. `copy` also replaces the copy in the server's package, which
# `parley serve --ui` serves; `check` fails if that copy is not this build. `test` runs the
# page's own checks and tests.
# Skips the build if npm is missing; with CI set that is an error.
set -eu
copy=service/parley_server/ui/page

if ! command -v npm >/dev/null; then
    echo "Skipped the chat page: npm is not installed. Debian: apt-get install nodejs npm"
    [ -z "${CI:-}" ] || exit 1
    exit 0
fi
(
    cd examples/page
    if [ ! -e node_modules/.package-lock.json ] || [ package-lock.json -nt node_modules/.package-lock.json ]; then
        npm ci --no-audit --no-fund --loglevel=error
    fi
    if [ ! -e dist/index.html ] || [ -n "$(find . -path ./node_modules -prune -o -path ./dist -prune -o -type f -newer dist/index.html -print)" ]; then
        npm run --silent build -- --logLevel warn
    fi
)
case $1 in
build) ;;
copy)
    rm -rf "$copy"
    cp -R examples/page/dist "$copy"
    ;;
check)
    diff -r examples/page/dist "$copy" >/dev/null || {
        echo "$copy is not the build of examples/page: run \`make page\` and commit it" >&2
        exit 1
    }
    ;;
test) cd examples/page && npm run --silent check && npm test --silent ;;
*)
    echo "Usage: tools/page.sh build|copy|check|test" >&2
    exit 2
    ;;
esac
