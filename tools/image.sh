#!/usr/bin/env bash
# Builds a container image: with docker where its engine runs, otherwise with buildah (docs/image.md).
#   tools/image.sh build TAG [OPTION...]   OPTION of the builder, such as --build-arg, --file or --iidfile
#   tools/image.sh save TAG FILE           an archive for `docker load`, `podman load` and registries
# BASE names the base image. Without it, the default of the Dockerfile is taken, or a Debian base that is made here with
# mmdebstrap if buildah cannot pull the default.
set -euo pipefail
cd "$(dirname "$0")/.."
SUITE=bookworm
DEBIAN_BASE=localhost/parley-base:$SUITE
BASE_PACKAGES=python3,python3-venv,ca-certificates,tzdata

fail() {
    printf '%s\n' "$1" >&2
    exit 1
}

has_docker() {
    command -v docker >/dev/null && docker info >/dev/null 2>&1
}

pip_settings() { # the settings of pip on this machine as `option=value`, by precedence: its environment, then its files
    local python=.venv/bin/python
    [ -x $python ] || python=python3
    PIP_QUIET=0 $python -m pip config list 2>/dev/null | sed -nE "s/^(:env:|global|install|wheel)\.([a-z-]+)='(.*)'$/\2=\3/p" || true
}

# Secrets of the build: the index, proxy and certificates with which pip reaches packages on this machine.
make_secrets() {
    local folder=$1 settings certificates
    settings=$(pip_settings)
    {
        echo '[global]'
        grep -E '^(index-url|extra-index-url|trusted-host|proxy|timeout)=' <<<"$settings" |
            awk -F= '!seen[$1]++' | sed 's/\\n/\n    /g' # an option with several values has one on each line
    } >"$folder/pip" || true
    certificates=$(sed -n 's/^cert=//p' <<<"$settings" | head -1)
    certificates=${certificates:-${SSL_CERT_FILE:-}}
    if [ -n "$certificates" ]; then cp "$certificates" "$folder/ca"; fi
}

# A base for machines that reach Debian's packages but no registry of images; buildah keeps it until `buildah rmi`.
make_debian_base() {
    local folder=$1 sources=()
    ! buildah inspect --type image "$DEBIAN_BASE" >/dev/null 2>&1 || return 0
    command -v mmdebstrap >/dev/null || fail "No base image: no registry is reached, and mmdebstrap is not installed."
    echo "Making $DEBIAN_BASE with mmdebstrap (once) ..." >&2
    # From where apt gets packages on this machine, or from mmdebstrap's own default.
    apt-get indextargets --format 'deb $(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' 'Component: main' \
        2>/dev/null | grep -E " $SUITE(-updates|-security)? " >"$folder/apt.list" && sources=("$folder/apt.list")
    mmdebstrap --quiet --variant=minbase --include=$BASE_PACKAGES \
        --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
        $SUITE "$folder/base.tar" "${sources[@]}" >&2
    printf 'FROM scratch\nADD base.tar /\nCMD ["python3"]\n' >"$folder/Dockerfile"
    buildah build --quiet --isolation chroot --layers=false --tag "$DEBIAN_BASE" "$folder" >/dev/null
    rm "$folder/base.tar"
}

build() {
    local tag=$1 option options=() default
    shift
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
    make_secrets "$folder"
    for option in pip ca; do
        [ ! -e "$folder/$option" ] || options+=(--secret "id=$option,src=$folder/$option")
    done
    for option in HTTP_PROXY HTTPS_PROXY NO_PROXY http_proxy https_proxy no_proxy; do
        [ -z "${!option:-}" ] || options+=(--build-arg "$option") # of the build alone: images do not keep these
    done
    default=$(sed -n 's/^ARG BASE=//p' Dockerfile)
    if [ -z "${BASE:-}" ] && ! has_docker && ! buildah pull --quiet "$default" >/dev/null 2>"$folder/error"; then
        echo "$default cannot be pulled: $(tail -1 "$folder/error")" >&2
        make_debian_base "$folder"
        BASE=$DEBIAN_BASE
    fi
    options+=(--build-arg "BASE=${BASE:-$default}"
        --label "org.opencontainers.image.base.name=${BASE:-$default}"
        --label "org.opencontainers.image.version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml | head -1)")
    if git rev-parse --git-dir >/dev/null 2>&1; then # dates of the commit, so that an unchanged tree gives the same image
        options+=(--label "org.opencontainers.image.revision=$(git describe --always --dirty --abbrev=40 --exclude='*')"
            --label "org.opencontainers.image.created=$(git log -1 --format=%cI)")
    fi
    if has_docker; then
        docker build "${options[@]}" --tag "$tag" "$@" .
    else
        # The format of docker, since OCI's has no health check.
        buildah build --isolation chroot --layers --format docker "${options[@]}" --tag "$tag" "$@" .
    fi
}

case ${1:-} in
build)
    [ $# -ge 2 ] || fail "Usage: tools/image.sh build TAG [OPTION...]"
    has_docker || command -v buildah >/dev/null ||
        fail "An image needs docker or buildah. Debian: apt-get install buildah mmdebstrap"
    build "${@:2}"
    ;;
save)
    [ $# -eq 3 ] || fail "Usage: tools/image.sh save TAG FILE"
    rm -f "$3" # buildah does not replace an archive
    if has_docker; then docker save --output "$3" "$2"; else buildah push --quiet "$2" "docker-archive:$3:$2"; fi
    ;;
*) fail "Usage: tools/image.sh build TAG [OPTION...] | save TAG FILE" ;;
esac
