# Starts a Parley with parley.toml and this product beside it; Ctrl-C ends both. Usage: npm run demo
set -eu
parley=${PARLEY_BIN:-../../.venv/bin/parley}
[ -x "$parley" ] || {
    echo "There is no Parley at $parley: run 'make setup' in the repository, or set PARLEY_BIN" >&2
    exit 1
}
# The server refuses variables that it does not know.
env -u PARLEY_BIN -u PARLEY_ADDRESS -u PARLEY_API_KEY "$parley" serve --config parley.toml &
server=$!
trap 'kill $server ${app:-} 2>/dev/null' EXIT
trap exit INT TERM # so that the line above runs
CHAT_JWT_KEY=${CHAT_JWT_KEY:-$(node -p 'crypto.randomUUID()')} CHAT_DEMO_LOGIN=on node build/src/main.js &
app=$!
while kill -0 $server && kill -0 $app; do sleep 1; done 2>/dev/null
