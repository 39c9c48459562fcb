#!/usr/bin/env bash
# Installs what the tests of deploy/helm need.
#   tools/helm.sh                 Helm, compiled into .tools/bin (minutes, the first time), and the schemas of custom resources, copied
#                                 into .tools/crds from the Go modules of their projects
#   tools/helm.sh schemas PYTHON  the schemas of Kubernetes, in the environment of PYTHON
set -euo pipefail
cd "$(dirname "$0")/.."
HELM=v4.3.2
ROOT=$PWD

if [ "${1:-}" = schemas ]; then
    exec "$2" -m pip install --quiet --require-hashes --constraint constraints.txt --group kubernetes
fi

# The folder of a Go module, downloaded at most once.
module() {
    go mod download -json "$1" | python3 -c 'import json, sys; print(json.load(sys.stdin)["Dir"])'
}

copy() {
    local module=$1 folder
    shift
    folder=$(module "$module")
    (cd "$folder" && cp --no-preserve=mode "$@" "$ROOT/.tools/crds/")
}

mkdir -p .tools/bin .tools/crds
exec 9>.tools/helm.lock
flock 9 # two of them at once would compile all twice; and tests/lanes.py waits for it
cd .tools # outside of any module
copy github.com/prometheus-operator/prometheus-operator@v0.85.0 \
    example/prometheus-operator-crd/monitoring.coreos.com_{podmonitors,prometheusrules}.yaml
copy github.com/cert-manager/cert-manager@v1.21.2 deploy/crds/cert-manager.io_certificates.yaml
copy istio.io/api@v1.32.0 kubernetes/customresourcedefinitions.gen.yaml
[ -x bin/helm ] || GOBIN=$PWD/bin go install "helm.sh/helm/v4/cmd/helm@$HELM"
