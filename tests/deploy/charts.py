"""Renders the Helm chart, and checks resources against the schemas of Kubernetes and of custom resources."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from tests.needs import missing
from tests.tools import ROOT, tool

CHART = ROOT / "deploy/helm/parley"
CRDS = ROOT / ".tools/crds"
KUBERNETES = "1.37"
OLDEST_KUBERNETES = "1.27"
Resource = dict[str, Any]


def helm(*arguments: str, values: Mapping[str, Any] | None = None) -> subprocess.CompletedProcess[str]:
    """Run Helm, with `values` in place of a file. It reads no configuration of the user and asks no cluster."""
    given = ["--values", "-"] if values is not None else []
    return subprocess.run(
        [tool("helm"), *arguments, *given],
        input=json.dumps(values or {}),
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        timeout=60,
    )


def render(values: Mapping[str, Any], *, release: str = "parley", namespace: str = "chat") -> list[Resource]:
    """The resources of the chart with these values."""
    return [each for _, each in _rendered(json.dumps(values, sort_keys=True), release, namespace)]


@functools.cache
def _rendered(values: str, release: str, namespace: str) -> tuple[tuple[int, Resource], ...]:
    ran = helm("template", release, str(CHART), "--namespace", namespace, values=json.loads(values))
    assert ran.returncode == 0, ran.stderr
    return tuple(enumerate(each for each in yaml.safe_load_all(ran.stdout) if each))


def refusal(values: Mapping[str, Any]) -> str:
    """Why Helm does not render these values."""
    ran = helm("template", "parley", str(CHART), values=values)
    assert ran.returncode != 0, "the values were accepted"
    return ran.stderr


def of_kind(resources: Sequence[Resource], kind: str) -> list[Resource]:
    """All resources of a kind."""
    return [each for each in resources if each["kind"] == kind]


def only(resources: Sequence[Resource], kind: str) -> Resource:
    """The only resource of a kind."""
    (found,) = of_kind(resources, kind)
    return found


def pods(resources: Sequence[Resource]) -> Iterator[tuple[str, Resource]]:
    """The kind of each resource that makes pods, with the template of its pod."""
    for each in resources:
        if "template" in each.get("spec", {}):
            yield each["kind"], each["spec"]["template"]


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Values as Helm merges them: tables key by key, anything else whole."""
    both = dict(base)
    for key, value in over.items():
        below = both.get(key)
        both[key] = merged(below, value) if isinstance(value, Mapping) and isinstance(below, Mapping) else value
    return both


# --- validation


def faults(resource: Resource, *, kubernetes: str = KUBERNETES) -> list[str]:
    """What a server that is strict about unknown fields would refuse; for custom resources, by their CRDs."""
    group, _, version = resource["apiVersion"].rpartition("/")
    if "." in group and not group.endswith(".k8s.io"):
        return _schema_faults(_custom_schema(group, version, resource["kind"]), resource)
    validate = require_kubernetes_validate()
    try:
        validate.validate(resource, kubernetes, strict=True)
    except validate.ValidationError as error:
        return [f"{resource['kind']}: {'.'.join(map(str, error.path))}: {error.message}"]
    return []


def require_kubernetes_validate() -> Any:
    """The package with the schemas of Kubernetes. Skips the test without it; fails it in CI."""
    try:
        import kubernetes_validate
    except ImportError:
        missing("kubernetes-validate")
    return kubernetes_validate


@functools.cache
def _custom_schema(group: str, version: str, kind: str) -> Any:
    """The schema of a kind, from the CRDs that tools/helm.sh has copied."""
    if not CRDS.is_dir():
        missing("the resources of operators")
    documents = [
        each for path in CRDS.glob("*.yaml") for each in re.split(r"^---$", path.read_text(), flags=re.MULTILINE)
    ]
    for text in documents:
        if re.search(rf"^    kind: {kind}$", text, re.MULTILINE) and f"\n  group: {group}\n" in text:
            spec = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))["spec"]
            (found,) = [each["schema"]["openAPIV3Schema"] for each in spec["versions"] if each["name"] == version]
            return found
    raise LookupError(f"no CRD for {group}/{version} {kind}")


def _schema_faults(schema: Any, resource: Resource) -> list[str]:
    require_kubernetes_validate()
    import jsonschema  # it comes with kubernetes-validate

    closed = _closed(schema, top=True)
    errors = jsonschema.Draft4Validator(closed).iter_errors(resource)
    return [f"{resource['kind']}: {'.'.join(map(str, error.path))}: {error.message}" for error in errors]


def _closed(schema: Any, *, top: bool = False) -> Any:
    """The schema of a CRD that also refuses unknown fields, which a server would drop."""
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items() if key != "properties"}
    if "properties" in schema:
        closed["properties"] = {name: _closed(each) for name, each in schema["properties"].items()}
        if top:  # some CRDs leave out what all resources have
            closed["properties"] |= {"apiVersion": {}, "kind": {}, "metadata": {"type": "object"}}
        if "type" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
            closed.setdefault("additionalProperties", False)
    return closed
