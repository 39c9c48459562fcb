#!/bin/sh
# Starts a Parley server and the chat, and opens http://127.0.0.1:8080 for anybody; Ctrl-C ends both.
# Without GEMINI_API_KEY the answers come from a scripted model.
set -eu
cd "$(dirname "$0")"
[ -n "${GEMINI_API_KEY:-}" ] || export GEMINI_API_KEY=none CHAT_MODEL=scripted
export CHAT_DEMO_LOGIN=on CHAT_JWT_KEY="${CHAT_JWT_KEY:-$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')}"
export PARLEY_DATABASE_URL="${PARLEY_DATABASE_URL:-sqlite+aiosqlite:///target/parley.db}"
PARLEY_CONFIG=parley.toml "${PARLEY_BIN:-../../.venv/bin/parley}" serve &
trap 'kill $!; wait' EXIT
trap 'exit' INT TERM
java -jar target/parley-example-spring-boot-*.jar
