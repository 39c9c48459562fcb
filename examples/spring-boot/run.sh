#!/bin/sh
# Starts a Parley server and the chat, and opens http://127.0.0.1:8080 for anybody; Ctrl-C ends both.
# Without GEMINI_API_KEY the answers come from a scripted model.
set -eu
cd "$(dirname "$0")"
[ -n "${GEMINI_API_KEY:-}" ] || export GEMINI_API_KEY=none CHAT_MODEL=scripted
export CHAT_DEMO_LOGIN=on CHAT_JWT_KEY="${CHAT_JWT_KEY:-$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')}"
export PARLEY_DATABASE_URL="${PARLEY_DATABASE_URL:-sqlite+aiosqlite:///target/parley.db}"
server=${PARLEY_BIN:-../../.venv/bin/parley}
# Parley refuses variables that it does not have, such as those of the chat.
env -u PARLEY_BIN -u PARLEY_ADDRESS -u PARLEY_API_KEY PARLEY_CONFIG=parley.toml \
    PARLEY_LISTEN="${PARLEY_ADDRESS:-127.0.0.1:50051}" "$server" serve &
parley=$!
java -jar target/parley-example-spring-boot-*.jar &
chat=$!
trap 'kill "$chat" "$parley" 2>/dev/null; wait' EXIT
trap exit INT TERM
wait "$chat"
