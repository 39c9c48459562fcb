"""The Helm chart: what it renders is valid, and fits the server, the image and the documents."""

from __future__ import annotations

import datetime
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from parley_server.rpc.server import LIVENESS, READINESS
from parley_server.settings import Settings, is_sqlite, load_settings
from parley_server.settings.change import APPLIED, APPLIED_OF_SERVER

from tests.commands import blocks, run
from tests.deploy.cases import CASES, CLUSTER, OPEN, TENANT, WHOLE, WRONG
from tests.deploy.charts import (
    CHART,
    KUBERNETES,
    OLDEST_KUBERNETES,
    Resource,
    faults,
    helm,
    merged,
    of_kind,
    only,
    pods,
    refusal,
    render,
)
from tests.processes import ServerProcess
from tests.tools import ROOT
from tests.unit.test_deploy import IMAGE_USER, IMAGE_VOLUME, fits, image_environment, metric_names

pytestmark = pytest.mark.xdist_group("helm")  # one process renders each case once
README = (CHART / "README.md").read_text()
VALUES = (CHART / "values.yaml").read_text()
SECRETS = {
    "PARLEY_DATABASE_URL": "postgresql+asyncpg://parley:PASSWORD@postgres:5432/parley",
    "PARLEY_REDIS_URL": "rediss://:PASSWORD@redis:6379/0",
    "PARLEY_ENCRYPTION_KEYS": "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",
    "OPENAI_API_KEY": "KEY",
}
MANAGED_BY_THE_CHART = {
    *("listen", "metrics_listen", "ui_listen", "ui_hosts", "database_url", "redis_url", "workers"),
    *("insecure", "plaintext", "encryption_keys", "tls"),
    "tracing",  # by variables of OpenTelemetry alone
}


@pytest.fixture(params=CASES)
def resources(request: pytest.FixtureRequest) -> list[Resource]:
    return render(CASES[request.param])


def container(resources: list[Resource], kind: str = "Deployment") -> Resource:
    (found,) = only(resources, kind)["spec"]["template"]["spec"]["containers"]
    return found


def environment_of(container: Resource) -> dict[str, str]:
    """The environment of a container, with the values of its Secrets."""
    found: dict[str, str] = {}
    for each in container["env"]:
        reference = each.get("valueFrom", {}).get("secretKeyRef")
        found[each["name"]] = SECRETS[reference["key"]] if reference else each["value"]
    return found


def settings_of(resources: list[Resource], folder: Path) -> Settings:
    """The settings of the server, with its configuration and its certificates in `folder`; raises for any fault."""
    return load_settings(image_environment() | environment_of(container(resources)) | placed(resources, folder))


def placed(resources: list[Resource], folder: Path) -> dict[str, str]:
    """Write the mounted configuration file to `folder`, and return the variable that names it."""
    text = only(resources, "ConfigMap")["data"]["parley.toml"]
    (folder / "parley.toml").write_text(re.sub(r'"/etc/(parley-[\w-]+)/', rf'"{folder}/\1/', text))
    return {"PARLEY_CONFIG": str(folder / "parley.toml")}


# --- valid by itself


def test_lint_has_no_warning() -> None:
    ran = helm("lint", "--strict", str(CHART), values=WHOLE)
    assert ran.returncode == 0, ran.stdout
    assert [line for line in ran.stdout.splitlines() if "WARN" in line or "ERROR" in line] == []


def test_resources_satisfy_the_schemas(resources: list[Resource]) -> None:
    assert [fault for each in resources for fault in faults(each)] == []


def test_resources_of_the_oldest_kubernetes_satisfy_its_schemas() -> None:
    rendered = render(CASES["cluster"])
    assert [fault for each in rendered for fault in faults(each, kubernetes=OLDEST_KUBERNETES)] == []
    assert f'kubeVersion: ">={OLDEST_KUBERNETES}.0-0"' in (CHART / "Chart.yaml").read_text()


def test_validation_finds_unknown_fields() -> None:
    """The checks above can fail, for resources of Kubernetes and for custom ones."""
    rendered = render(WHOLE)
    for kind, field in (("Deployment", "strategie"), ("PodMonitor", "selektor"), ("Certificate", "dnsName")):
        resource = json.loads(json.dumps(only(rendered, kind)))
        assert faults(resource, kubernetes=KUBERNETES) == []
        resource["spec"][field] = {}
        assert faults(resource, kubernetes=KUBERNETES) != []


@pytest.mark.parametrize("case", WRONG)
def test_values_that_do_not_fit_are_refused_with_a_reason(case: str) -> None:
    values, reasons = WRONG[case]
    text = re.sub(r"\s+", " ", refusal(values))
    assert [reason for reason in reasons if reason not in text] == []


def test_schema_closes_every_object() -> None:
    """Only tables whose keys are names, or that belong to Parley or Kubernetes, are open."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    is_open = {path for path, each in objects(schema) if "additionalProperties" not in each}
    parley = {"config.server", "config.retention"}
    kubernetes = {"global", "resources", "migrate.resources", "affinity", "extraEnv.valueFrom"}
    peers = {"tolerations", "networkPolicy.clients", "networkPolicy.metrics"}
    peers |= {f"networkPolicy.egress.{name}.to" for name in ("database", "redis", "https")}
    peers |= {"networkPolicy.extraIngress", "networkPolicy.extraEgress"}
    tables = {f"config.{name}.*" for name in ("providers", "models", "tenants", "identity")}
    assert is_open == parley | kubernetes | peers | tables


def objects(schema: Resource, path: str = "") -> Iterator[tuple[str, Resource]]:
    """The schema of each object, with its path; items of an array have the path of the array."""
    if schema.get("type") == "object":
        yield path, schema
    for name, each in schema.get("properties", {}).items():
        yield from objects(each, f"{path}.{name}".lstrip("."))
    for name in ("additionalProperties", "items"):
        if isinstance(schema.get(name), dict):
            yield from objects(schema[name], path if name == "items" else f"{path}.*")


def test_schema_has_every_value_and_every_table_of_the_configuration() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert schema["properties"].keys() - {"global"} == yaml.safe_load(VALUES).keys()
    assert schema["properties"]["config"]["properties"].keys() >= Settings.model_fields.keys() - MANAGED_BY_THE_CHART


# --- pods


def test_pods_are_restricted(resources: list[Resource]) -> None:
    """The profile `restricted` of Pod Security, and a root file system that cannot be written."""
    for _, template in pods(resources):
        pod = template["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is pod["enableServiceLinks"] is False
        assert not pod.keys() & {"hostNetwork", "hostPID", "hostIPC", "initContainers", "ephemeralContainers"}
        kinds = {kind for volume in pod.get("volumes", ()) for kind in volume if kind != "name"}
        assert kinds <= {"configMap", "secret", "emptyDir", "persistentVolumeClaim"}
        for each in pod["containers"]:
            assert each["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert all("hostPort" not in port for port in each.get("ports", ()))


def test_pods_have_the_user_of_the_image_or_none() -> None:
    user, group = map(int, IMAGE_USER)
    for _, template in pods(render(WHOLE)):
        context = template["spec"]["securityContext"]
        assert (context["runAsUser"], context["runAsGroup"], context["fsGroup"]) == (user, group, group)
    for _, template in pods(render(merged(CLUSTER, {"runAsUser": None}))):
        assert not template["spec"]["securityContext"].keys() & {"runAsUser", "runAsGroup", "fsGroup"}


def test_every_mount_has_its_volume_and_every_volume_is_mounted(resources: list[Resource]) -> None:
    for _, template in pods(resources):
        volumes = {each["name"] for each in template["spec"].get("volumes", ())}
        for each in template["spec"]["containers"]:
            mounts = each.get("volumeMounts", ())
            assert {mount["name"] for mount in mounts} == volumes
            assert len({mount["mountPath"] for mount in mounts}) == len(mounts)
            assert all(mount.get("readOnly") for mount in mounts if mount["mountPath"].startswith("/etc/"))


def test_selectors_match_the_pods_of_replicas_alone(resources: list[Resource]) -> None:
    labels = only(resources, "Deployment")["spec"]["template"]["metadata"]["labels"]
    spread = only(resources, "Deployment")["spec"]["template"]["spec"].get("topologySpreadConstraints", ())
    selectors = [
        only(resources, "Deployment")["spec"]["selector"]["matchLabels"],
        *[each["spec"]["selector"] for each in of_kind(resources, "Service")],
        *[each["spec"]["selector"]["matchLabels"] for each in of_kind(resources, "PodDisruptionBudget")],
        *[each["spec"]["selector"]["matchLabels"] for each in of_kind(resources, "PodMonitor")],
        *[each["labelSelector"]["matchLabels"] for each in spread],
    ]
    assert [each for each in selectors if not each.items() <= labels.items()] == []
    for job in of_kind(resources, "Job"):
        others = job["spec"]["template"]["metadata"]["labels"]
        assert [each for each in selectors if each.items() <= others.items()] == []
    policies = [each["spec"]["podSelector"]["matchLabels"] for each in of_kind(resources, "NetworkPolicy")]
    for _, template in pods(resources):
        matching = [each for each in policies if each.items() <= template["metadata"]["labels"].items()]
        assert len(matching) == bool(policies)


def test_references_lead_to_resources_of_the_chart(resources: list[Resource]) -> None:
    pod = only(resources, "Deployment")["spec"]["template"]["spec"]
    accounts = {each["metadata"]["name"] for each in of_kind(resources, "ServiceAccount")}
    assert pod["serviceAccountName"] in accounts or (not accounts and pod["serviceAccountName"] == "default")
    for each in pod["volumes"]:
        if "configMap" in each:
            assert each["configMap"]["name"] == only(resources, "ConfigMap")["metadata"]["name"]
    for scaler in of_kind(resources, "HorizontalPodAutoscaler"):
        assert scaler["spec"]["scaleTargetRef"]["name"] == only(resources, "Deployment")["metadata"]["name"]
        assert "replicas" not in only(resources, "Deployment")["spec"]
    claims = {each["metadata"]["name"] for each in of_kind(resources, "PersistentVolumeClaim")} | {"conversations"}
    named = {each["persistentVolumeClaim"]["claimName"] for each in pod["volumes"] if "persistentVolumeClaim" in each}
    assert named <= claims


def test_hooks_use_nothing_that_an_installation_makes_later() -> None:
    """Hooks of an installation run before the other resources exist."""
    rendered = render(WHOLE)
    hooks = [each for each in rendered if "helm.sh/hook" in each["metadata"].get("annotations", {})]
    assert {each["kind"] for each in hooks} == {"Job", "NetworkPolicy"}
    assert {each["metadata"]["annotations"]["helm.sh/hook"] for each in hooks} == {"pre-install,pre-upgrade"}
    pod = only(rendered, "Job")["spec"]["template"]["spec"]
    assert "serviceAccountName" not in pod
    assert all("secret" in each for each in pod["volumes"])


def test_standalone_has_one_replica_on_a_volume_that_is_kept() -> None:
    rendered = render(OPEN)
    deployment = only(rendered, "Deployment")
    assert deployment["spec"]["replicas"] == 1
    assert deployment["spec"]["strategy"] == {"type": "Recreate"}
    claim = only(rendered, "PersistentVolumeClaim")
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    (mount,) = [each for each in container(rendered)["volumeMounts"] if each["name"] == "data"]
    assert mount["mountPath"] == IMAGE_VOLUME
    for kind in ("Job", "PodDisruptionBudget", "HorizontalPodAutoscaler"):
        assert of_kind(rendered, kind) == []


def test_cluster_replaces_replicas_one_after_the_other() -> None:
    deployment = only(render(CLUSTER), "Deployment")
    assert deployment["spec"]["replicas"] == 3
    assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    assert of_kind(render(CLUSTER), "PersistentVolumeClaim") == []


def checksum(values: Mapping[str, Any]) -> str:
    return only(render(values), "Deployment")["spec"]["template"]["metadata"]["annotations"]["checksum/configuration"]


def test_pods_are_replaced_only_for_changes_that_need_a_restart() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())["properties"]["config"]["properties"]
    tables = {name for name, each in schema.items() if each["type"] == "object"}
    assert set(APPLIED) < tables
    changes: list[tuple[dict[str, Any], bool]] = [
        *[({table: {"new": {"key": 1}}}, table not in APPLIED) for table in sorted(tables - {"server"})],
        ({"server": dict.fromkeys(APPLIED_OF_SERVER, "fast")}, False),
        ({"server": {"max_replies": 100}}, True),
        ({"log_level": "debug"}, True),
    ]
    for change, restart in changes:
        assert (checksum(merged(CLUSTER, {"config": change})) != checksum(CLUSTER)) == restart, change


def test_pods_are_replaced_for_every_change_if_the_values_say_so() -> None:
    always = CLUSTER | {"replacePodsForEveryChange": True}
    changed = merged(always, {"config": {"tenants": {"shop": {"roles": ["client"]}}}})
    assert checksum(changed) != checksum(always)
    assert checksum(always | {"service": {"port": 443}}) == checksum(always)


def test_names_of_two_releases_in_a_namespace_differ() -> None:
    first, second = render(WHOLE, release="chat"), render(WHOLE, release="draft")
    names = [{(each["kind"], each["metadata"]["name"]) for each in release} for release in (first, second)]
    assert not names[0] & names[1]
    assert not only(first, "Deployment")["spec"]["selector"]["matchLabels"].items() <= (
        only(second, "Deployment")["spec"]["template"]["metadata"]["labels"].items()
    )


def test_long_names_stay_within_the_limit_of_kubernetes() -> None:
    names = [each["metadata"]["name"] for each in render(WHOLE, release="a" * 53)]
    assert max(map(len, names)) <= 63


# --- the server


def test_configuration_loads_and_has_time_to_drain(resources: list[Resource], mounted: Path) -> None:
    settings = settings_of(resources, mounted)
    assert fits(settings, only(resources, "Deployment")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"])
    assert is_sqlite(settings.database_url) == (of_kind(resources, "PersistentVolumeClaim") != [] or claimed(resources))
    (mount,) = [each for each in container(resources)["volumeMounts"] if each["name"] == "configuration"]
    assert environment_of(container(resources))["PARLEY_CONFIG"] == f"{mount['mountPath']}/parley.toml"


def claimed(resources: list[Resource]) -> bool:
    volumes = only(resources, "Deployment")["spec"]["template"]["spec"]["volumes"]
    return any("persistentVolumeClaim" in each for each in volumes)


@pytest.fixture(scope="module")
def mounted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with certificates where the chart mounts them below /etc."""
    folder = tmp_path_factory.mktemp("etc")
    for name in ("parley-tls", "parley-client-ca"):
        (folder / name).mkdir()
    subprocess.run(
        [
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-days",
                "1",
            ),
            *("-subj", "/CN=parley", "-keyout", str(folder / "parley-tls/tls.key")),
            *("-out", str(folder / "parley-tls/tls.crt")),
        ],
        check=True,
        capture_output=True,
    )
    (folder / "parley-client-ca/ca.crt").write_text((folder / "parley-tls/tls.crt").read_text())
    return folder


def test_parley_check_accepts_the_whole_configuration(mounted: Path) -> None:
    """The real command, in the environment of the pod."""
    rendered = render(WHOLE)
    given = image_environment() | environment_of(container(rendered)) | placed(rendered, mounted)
    ran = subprocess.run(
        [str(Path(sys.executable).parent / "parley"), "check"], env=given, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    assert "the configuration is valid: 2 models, fast by default" in ran.stdout
    assert "workers: 2" in ran.stdout
    assert "access: tenants *, shop; tokens of corp" in ran.stdout


def test_configuration_is_that_of_the_values() -> None:
    """Every kind of value survives the way from YAML to TOML."""
    config = {
        "server": {"default_model": "a", "max_prompt_bytes": 268435456, "reflection": False, "orphan_ttl_s": 0.125},
        "models": {
            "a": {
                "provider": "p",
                "name": 'quo"te \\ <tag> & ünïcode',
                "retires": "2027-03-01",
                "prices": {"prompt": 0.000000001, "tiers": [{"above": 200000, "prompt": 1, "completion": 2.5}]},
                "extra_body": {"generationConfig": {"a b": [[1, 2], []], "c": None}, "list": [{"x": {"y": True}}]},
            }
        },
        "providers": {"p": {"kind": "anthropic", "version": "2026-10-21"}},
        "tenants": {"*": {}, "shop.eu": {"models": []}},
    }
    text = only(render(OPEN | {"config": config}), "ConfigMap")["data"]["parley.toml"]
    expected = json.loads(json.dumps(config))
    del expected["models"]["a"]["extra_body"]["generationConfig"]["c"]
    expected["server"] |= {"drain_pause_s": 5, "drain_grace_s": 60}
    found = tomllib.loads(text)
    expected["models"]["a"]["retires"] = datetime.date(2027, 3, 1)
    assert found == expected


@pytest.mark.parametrize(
    ("server", "sleep_s", "expected_s"),
    [
        ({}, 0, 85),
        ({"drain_pause_s": 0, "drain_grace_s": 0}, 0, 20),
        ({"drain_pause_s": 2.5, "drain_grace_s": 30}, 10, 63),
        ({"drain_pause_s": None, "drain_grace_s": None}, 0, 51),  # Parley's own defaults, rounded up
    ],
)
def test_grace_period_covers_the_drain(server: dict[str, Any], sleep_s: int, expected_s: int, mounted: Path) -> None:
    rendered = render(OPEN | {"config": {"server": server}, "preStopSleepSeconds": sleep_s})
    grace_s = only(rendered, "Deployment")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace_s == expected_s
    assert fits(settings_of(rendered, mounted), grace_s - sleep_s)
    lifecycle = container(rendered).get("lifecycle")
    assert lifecycle == ({"preStop": {"sleep": {"seconds": sleep_s}}} if sleep_s else None)


def test_migration_loads_without_other_settings() -> None:
    job = only(render(WHOLE), "Job")
    migration = container([job], "Job")
    assert migration["args"] == ["parley", "migrate"]
    assert load_settings(image_environment() | environment_of(migration)).database_url == SECRETS["PARLEY_DATABASE_URL"]
    (url,) = [each for each in migration["env"] if each["name"] == "PARLEY_DATABASE_URL"]
    assert url["valueFrom"]["secretKeyRef"]["name"] == "parley-owner"
    other = container(render(CLUSTER), "Job")["env"]
    assert {"name": "parley", "key": "PARLEY_DATABASE_URL"} in [
        each["valueFrom"]["secretKeyRef"] for each in other if "valueFrom" in each
    ]


def test_server_runs_the_command_of_the_image() -> None:
    (command,) = re.findall(r"^CMD (.*)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert container(render(OPEN))["args"] == json.loads(command)


def test_ports_are_those_of_the_settings(resources: list[Resource], mounted: Path) -> None:
    settings = settings_of(resources, mounted)
    assert settings.metrics_listen is not None
    ports = {each["name"]: each["containerPort"] for each in container(resources)["ports"]}
    assert ports == {"grpc": settings.listen.port, "metrics": settings.metrics_listen.port}
    targets = {each["targetPort"] for service in of_kind(resources, "Service") for each in service["spec"]["ports"]}
    assert targets == {"grpc"}
    annotations = only(resources, "Deployment")["spec"]["template"]["metadata"]["annotations"]
    monitors = of_kind(resources, "PodMonitor")
    assert annotations.get("prometheus.io/port") == (None if monitors else str(ports["metrics"]))
    assert [each["port"] for each in monitors for each in each["spec"]["podMetricsEndpoints"]] == ["metrics"] * len(
        monitors
    )


def test_policies_name_ports_of_the_pods(resources: list[Resource]) -> None:
    ports = {each["name"] for each in container(resources)["ports"]}
    for policy in of_kind(resources, "NetworkPolicy"):
        rules = policy["spec"].get("ingress") or ()
        named = {port["port"] for rule in rules for port in rule["ports"] if isinstance(port["port"], str)}
        assert named == (ports if rules else set())
        assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]


def test_policies_allow_what_the_server_needs_and_no_more() -> None:
    def egress(values: Mapping[str, Any]) -> list[set[Any]]:
        (policy, *_) = of_kind(render(values), "NetworkPolicy")
        return [{port["port"] for port in rule["ports"]} for rule in policy["spec"]["egress"]]

    assert egress(OPEN) == [{53}, {443}]
    assert egress(CLUSTER) == [{53}, {5432}, {6379}, {443}]
    assert egress(WHOLE) == [{53}, {6432}, {6379}, {443}, {4317}]
    server, migration = of_kind(render(WHOLE), "NetworkPolicy")
    assert server["spec"]["ingress"][0]["from"] == WHOLE["networkPolicy"]["clients"]
    assert server["spec"]["egress"][1]["to"] == WHOLE["networkPolicy"]["egress"]["database"]["to"]
    assert "to" not in server["spec"]["egress"][2]
    assert "ingress" not in migration["spec"]
    assert [{port["port"] for port in rule["ports"]} for rule in migration["spec"]["egress"]] == [{53}, {6432}, {4317}]


def test_probes_use_existing_health_services_or_with_tls_the_port() -> None:
    plain, encrypted = container(render(CLUSTER)), container(render(WHOLE))
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert plain[name]["grpc"]["port"] in [
            each["containerPort"] for each in plain["ports"] if each["name"] == "grpc"
        ]
        assert encrypted[name]["tcpSocket"] == {"port": "grpc"}
        assert "grpc" not in encrypted[name]
    assert plain["startupProbe"]["grpc"]["service"] == plain["livenessProbe"]["grpc"]["service"] == LIVENESS
    assert plain["readinessProbe"]["grpc"]["service"] in READINESS


def test_tls_uses_the_secret_of_the_certificate_and_the_names_of_the_services() -> None:
    rendered = render(WHOLE)
    certificate = only(rendered, "Certificate")["spec"]
    volumes = {each["name"]: each for each in only(rendered, "Deployment")["spec"]["template"]["spec"]["volumes"]}
    assert volumes["tls"]["secret"]["secretName"] == certificate["secretName"]
    assert volumes["client-ca"]["secret"]["secretName"] == "clients"
    services = {each["metadata"]["name"] for each in of_kind(rendered, "Service")}
    assert {f"{name}.chat.svc" for name in services} | services | {"parley.example.com"} <= set(certificate["dnsNames"])
    assert {port["appProtocol"] for each in of_kind(rendered, "Service") for port in each["spec"]["ports"]} == {"https"}
    text = only(rendered, "ConfigMap")["data"]["parley.toml"]
    mounts = {each["name"]: each["mountPath"] for each in container(rendered)["volumeMounts"]}
    assert tomllib.loads(text)["tls"] == {
        "certificate": f"{mounts['tls']}/tls.crt",
        "key": f"{mounts['tls']}/tls.key",
        "client_ca": f"{mounts['client-ca']}/ca.crt",
    }


def test_without_tls_services_speak_cleartext_http2() -> None:
    ports = [port for each in of_kind(render(CLUSTER), "Service") for port in each["spec"]["ports"]]
    assert {port["appProtocol"] for port in ports} == {"kubernetes.io/h2c"}


def test_secrets_are_only_named() -> None:
    """No resource of the chart is a Secret, and each variable with a secret comes from one."""
    for values in CASES.values():
        assert of_kind(render(values), "Secret") == []
    for each in container(render(WHOLE))["env"]:
        assert ("valueFrom" in each) == (each["name"] in SECRETS)


def test_autoscaler_uses_an_existing_metric_that_the_adapter_provides() -> None:
    (metric,) = only(render(WHOLE), "HorizontalPodAutoscaler")["spec"]["metrics"]
    name = metric["pods"]["metric"]["name"]
    assert name in metric_names()
    assert metric["pods"]["target"]["averageValue"] == str(WHOLE["autoscaling"]["repliesPerPod"])
    (adapter,) = [each for each in blocks(README, "yaml") if "prometheus-adapter" in each]
    (rule,) = yaml.safe_load(adapter)["rules"]["custom"]
    assert rule["seriesQuery"].startswith(f"{name}{{")


def test_rules_are_those_of_deploy_observability_with_the_address_of_the_runbook() -> None:
    rules = (ROOT / "deploy/observability/alerts.yaml").read_text()
    assert (CHART / "files/alerts.yaml").read_text() == rules, "copy deploy/observability/alerts.yaml to files/"
    rendered = render(WHOLE)
    runbook = WHOLE["monitoring"]["prometheusRule"]["runbooks"]
    expected = yaml.safe_load(rules.replace("runbook_url: ", f"runbook_url: {runbook}"))
    assert only(rendered, "PrometheusRule")["spec"] == expected
    assert only(render(merged(WHOLE, {"monitoring": {"prometheusRule": {"runbooks": ""}}})), "PrometheusRule")[
        "spec"
    ] == yaml.safe_load(rules)


# --- the image and the release


def test_image_is_that_of_the_release() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert chart["version"] == chart["appVersion"] == version
    assert container(render(OPEN))["image"] == f"parley:{version}"
    assert container(render(WHOLE))["image"] == f"registry.example/parley@{WHOLE['image']['digest']}"
    assert container(render(OPEN | {"image": {"tag": "next"}}))["image"] == "parley:next"
    (tag,) = re.findall(r"tools/image\.sh build (\w+):", (ROOT / "Makefile").read_text())
    assert yaml.safe_load(VALUES)["image"]["repository"] == tag


# --- the documents


def leaves(values: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for name, value in values.items():
        below = f"{path}.{name}".lstrip(".")
        if isinstance(value, dict) and value and below not in ("config", "resources", "migrate.resources"):
            yield from leaves(value, below)
        else:
            yield below


def test_readme_describes_each_value() -> None:
    section = README.split("## Values")[1]
    described = [
        name for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE) for name in re.findall(r"`(.*?)`", row)
    ]
    assert sorted(described) == sorted(leaves(yaml.safe_load(VALUES)))


def test_examples_of_the_readme_are_valid(mounted: Path) -> None:
    secret, production, traces, _adapter = [yaml.safe_load(each) for each in blocks(README, "yaml")]
    assert faults(secret) == []
    rendered = render(merged(production, traces))
    assert [fault for each in rendered for fault in faults(each)] == []
    named = {
        each["valueFrom"]["secretKeyRef"]["key"]
        for each in (*container(rendered)["env"], *container(rendered, "Job")["env"])
        if "valueFrom" in each
    }
    assert named == secret["stringData"].keys()
    assert settings_of(rendered, mounted).models.keys() == {"fast"}


def test_examples_in_the_values_are_valid(mounted: Path) -> None:
    """The comments that show values are values."""
    text = re.sub(r"^( +)# ( *\w+:(?: [\[{\"].*| [\w-]+)?)$", r"\1\2", VALUES, flags=re.MULTILINE)
    text = text.replace("{}\n  OPENAI_API_KEY", "\n  OPENAI_API_KEY").replace(
        "{}\n  providers: parley", "\n  providers: parley"
    )
    values = yaml.safe_load(text.replace("SHA-256 of the key, in hexadecimal", "a" * 64))
    assert values["config"]["tenants"]
    assert values["secretVariables"]
    assert values["secretFiles"]
    rendered = render(merged(values, {"access": {"plaintext": True}}))
    assert settings_of(rendered, mounted).models.keys() == {"fast"}


def test_service_config_for_clients_checks_readiness() -> None:
    (block,) = blocks(README, "json")
    assert json.loads(block)["healthCheckConfig"]["serviceName"] in READINESS


def notes(values: Mapping[str, Any]) -> str:
    ran = helm("install", "parley", str(CHART), "--namespace", "chat", "--dry-run=client", values=values)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.split("\nNOTES:\n")[1]


async def test_the_command_of_the_notes_gets_a_reply(tmp_path: Path) -> None:
    text = notes(OPEN)
    assert "port-forward deployment/parley 50051:50051" in text
    command = text[text.index("  grpcurl") :].split("\n\n")[0]
    async with ServerProcess(tmp_path / "server", forked=True) as server:
        ran = await run(command, server, tmp_path)
    assert ran.status == 0, ran.stderr
    (called,) = ran.calls
    assert "Hello" in called.text


def test_notes_name_what_the_values_need() -> None:
    assert "every caller has access" in notes(OPEN)
    assert "The volume claim parley stays" in notes(OPEN)
    with_tenant, whole = notes(TENANT), notes(WHOLE)
    assert '-H "authorization: Bearer $API_KEY"' in with_tenant
    assert "-plaintext" in with_tenant
    assert "every caller has access" not in with_tenant
    assert "-plaintext" not in whole
    assert "-cacert ca.crt" in whole
    assert "-cert client.crt -key client.key" in whole
    assert "get secret parley-tls" in whole
    assert "volume claim" not in whole
