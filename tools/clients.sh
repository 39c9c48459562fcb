#!/bin/sh
# Builds or tests the clients of other languages, with their examples. Usage: tools/clients.sh build|test [node] [java]
# A language whose tools are not here is passed over, but not where CI is set.
set -eu
what=$1
shift
# A JVM of a minute: to compile it all twice would cost more than it gains.
short="-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
export MAVEN_OPTS="${MAVEN_OPTS:-} $short"

here() { # language, tool, how to get it
    command -v "$2" >/dev/null && return
    [ -z "${CI:-}" ] || {
        echo "the $1 client needs $2, which is not here. $3" >&2
        exit 1
    }
    echo "The $1 client is passed over: $2 is not here. $3"
    return 1
}

packages() { # what package-lock.json names, once
    if [ ! -e node_modules/.package-lock.json ] || [ package-lock.json -nt node_modules/.package-lock.json ]; then
        npm ci --no-audit --no-fund --loglevel=error
    fi
}

build_node() {
    (cd clients/node && packages && npm run --silent build:all)
    (cd examples/express && packages)
}

generated_node() { # is the committed code what the protos give?
    fresh=$(mktemp -d)
    (cd clients/node && node_modules/.bin/buf generate --output "$fresh")
    diff --recursive --unified clients/node/src/gen "$fresh/src/gen" || {
        echo "The Node client's generated code is not what the protos give: run \`make gen\` and commit it." >&2
        exit 1
    }
    rm -r "$fresh"
}

test_node() { # what is built, so that nothing changes under a player that runs meanwhile
    generated_node
    (cd clients/node && npm test --silent --ignore-scripts)
    (cd examples/express && npm test --silent --ignore-scripts)
}

build_java() {
    built=examples/spring-boot/target/.built
    [ ! -e "$built" ] || [ -n "$(find protos clients/java examples/spring-boot -newer "$built" -not -path '*/target*' -type f)" ] || return 0
    mvn -q -B -f clients/java install -DskipTests
    mvn -q -B -f examples/spring-boot package -DskipTests
    touch "$built"
}

test_java() {
    mvn -q -B -f clients/java test "-DargLine=$short"
    mvn -q -B -f examples/spring-boot test "-DargLine=$short"
}

for language in "$@"; do
    case $language in
    node) if here Node npm 'Debian: apt-get install nodejs npm'; then "${what}_node"; fi ;;
    java) if here Java mvn 'Debian: apt-get install maven'; then "${what}_java"; fi ;;
    *)
        echo "no client for $language" >&2
        exit 2
        ;;
    esac
done
