#!/bin/sh
# Builds or tests the Node and Java clients and their examples. Usage: tools/clients.sh build [node] [java]
# or test [node] [java] [spring-boot]
# Skips a language whose tools are missing; with CI set that is an error.
set -eu
what=$1
shift
# The JVMs run for about a minute, in which the second compiler would need more CPU than it saves.
short="-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
export MAVEN_OPTS="${MAVEN_OPTS:-} $short"

installed() { # language, tool, how to install it
    command -v "$2" >/dev/null && return
    [ -z "${CI:-}" ] || {
        echo "The $1 client needs $2. $3" >&2
        exit 1
    }
    echo "Skipped the $1 client: $2 is not installed. $3"
    return 1
}

packages() { # installs the packages of package-lock.json, if it has changed
    if [ ! -e node_modules/.package-lock.json ] || [ package-lock.json -nt node_modules/.package-lock.json ]; then
        npm ci --no-audit --no-fund --loglevel=error
    fi
}

changed() { # stamp, paths: whether a file below these paths is newer than the stamp
    stamp=$1
    shift
    [ ! -e "$stamp" ] || [ -n "$(find "$@" -newer "$stamp" -type f -not -path '*/node_modules/*' -not -path '*/dist/*' \
        -not -path '*/build/*' -not -path '*/target/*')" ]
}

node_examples() { # the page has a script of its own, tools/page.sh
    for package in examples/*/package.json; do
        [ "$package" = examples/page/package.json ] || dirname "$package"
    done
}

build_node() { # only after a change: a build replaces files of a running player
    built=clients/node/build/.built
    # shellcheck disable=SC2046 # one word for each example
    changed "$built" clients/node $(node_examples) || return 0
    (cd clients/node && packages && npm run --silent build:all)
    for example in $(node_examples); do
        (cd "$example" && packages && npm run --silent build)
    done
    touch "$built"
}

test_node() {
    build_node
    tools/check_generated.sh clients/node node_modules/.bin/buf src/gen
    (cd clients/node && npm test --silent --ignore-scripts)
    for example in $(node_examples); do # without npm, which would build it again while other tests run it
        (cd "$example" && node --test --test-timeout=60000 build/test/*.test.js)
    done
}

build_java() {
    built=examples/spring-boot/target/.built
    changed "$built" protos clients/java examples/spring-boot || return 0
    mvn -q -B -f clients/java install -DskipTests
    mvn -q -B -f examples/spring-boot package -DskipTests
    touch "$built"
}

test_java() {
    mvn -q -B -f clients/java test "-DargLine=$short"
}

test_spring_boot() { # the example, with the client that `build java` has installed
    mvn -q -B -f examples/spring-boot test "-DargLine=$short"
}

for language in "$@"; do
    case $language in
    node) if installed Node npm 'Debian: apt-get install nodejs npm'; then "${what}_node"; fi ;;
    java) if installed Java mvn 'Debian: apt-get install maven'; then "${what}_java"; fi ;;
    spring-boot) if installed Java mvn 'Debian: apt-get install maven'; then "${what}_spring_boot"; fi ;;
    *)
        echo "No client for $language" >&2
        exit 2
        ;;
    esac
done
