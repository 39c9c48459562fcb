"""The YAML of docs/mesh is valid, and says what the server and deploy/ have."""

from __future__ import annotations

import re
import tomllib

import pytest
import yaml
from parley_server.settings import ServerSettings

from tests.commands import blocks
from tests.deploy.cases import CLUSTER
from tests.deploy.charts import faults, merged, of_kind, only, render
from tests.tools import ROOT
from tests.unit.test_deploy import CLUSTER as ENVOY_CLUSTER
from tests.unit.test_deploy import SAFE_TO_REPEAT, seconds

pytestmark = pytest.mark.xdist_group("helm")
PAGES = {path.stem: path.read_text() for path in sorted((ROOT / "docs/mesh").glob("*.md"))}
BLOCKS = [(page, block) for page, text in PAGES.items() for block in blocks(text, "yaml")]
SERVER = ServerSettings()


def of_chart(page: str) -> list[dict]:
    """The values that a page shows, on those of a cluster."""
    found = [yaml.safe_load(block) for name, block in BLOCKS if name == page and block.startswith("# values")]
    return [merged(CLUSTER, values) for values in found]


@pytest.mark.parametrize(("page", "block"), BLOCKS, ids=[f"{page} {block.splitlines()[0]}" for page, block in BLOCKS])
def test_yaml_is_valid(page: str, block: str) -> None:
    documents = list(yaml.safe_load_all(block))
    if block.startswith("# values"):
        (values,) = documents
        documents = render(merged(CLUSTER, values))
    elif not block.startswith("# part"):
        assert all({"apiVersion", "kind", "metadata"} <= each.keys() for each in documents)
    resources = [each for each in documents if "kind" in each]
    assert [fault for each in resources for fault in faults(each)] == []


@pytest.mark.parametrize("page", PAGES)
def test_page_is_short_and_covers_every_requirement(page: str) -> None:
    assert len(PAGES[page].splitlines()) <= 60
    words = PAGES[page].lower()
    topics = ("timeout", "keepalive", "retr", "drain|sigterm", "eject|outlier", "protocol|http/2")
    assert [topic for topic in topics if not re.search(topic, words)] == []


def test_istio_retries_only_calls_that_no_replica_has_read() -> None:
    (rules,) = [list(yaml.safe_load_all(block)) for page, block in BLOCKS if "VirtualService" in block]
    (route,) = only(rules, "VirtualService")["spec"]["http"]
    assert set(route["retries"]["retryOn"].split(",")) <= SAFE_TO_REPEAT
    policy = only(rules, "DestinationRule")["spec"]["trafficPolicy"]
    assert seconds(policy["connectionPool"]["http"]["http2KeepAlive"]["interval"]) > SERVER.least_ping_interval_s
    assert policy["outlierDetection"]["splitExternalLocalOriginErrors"] is True
    assert policy["outlierDetection"]["consecutive5xxErrors"] == 0


def test_envoy_page_names_settings_of_the_configuration() -> None:
    configuration = (ROOT / "deploy/envoy.yaml").read_text()
    table = "\n".join(line.split("|")[2] for line in PAGES["envoy"].splitlines() if line.startswith("| "))
    named = set(re.findall(r"`([a-z_0-9]+)", table)) - {"unavailable", "reset", "request_id"}
    assert len(named) > 15
    assert [name for name in sorted(named) if name not in configuration] == []
    (part,) = [yaml.safe_load(block) for page, block in BLOCKS if block.startswith("# part")]
    assert part["load_assignment"]["cluster_name"] == ENVOY_CLUSTER["load_assignment"]["cluster_name"]
    (address,) = [each["endpoint"]["address"] for each in part["load_assignment"]["endpoints"][0]["lb_endpoints"]]
    replicas = [each for each in of_kind(render(CLUSTER), "Service") if each["spec"].get("clusterIP") == "None"]
    name = f"{replicas[0]['metadata']['name']}.chat.svc"
    assert address["socket_address"] == {"address": name, "port_value": replicas[0]["spec"]["ports"][0]["port"]}


def test_nginx_page_names_settings_of_the_configuration() -> None:
    configuration = (ROOT / "deploy/nginx.conf").read_text()
    table = "\n".join(line.split("|")[2] for line in PAGES["nginx"].splitlines() if line.startswith("| "))
    named = set(re.findall(r"`([a-z_0-9]+)", table)) - {"max_fails", "worker_connections", "time_limit_s", "request_id"}
    assert len(named) > 7
    assert [name for name in sorted(named) if name not in configuration] == []


def test_cloud_deregisters_a_target_after_its_drain() -> None:
    (values,) = of_chart("cloud")
    drain_s = only(render(values), "Deployment")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    delays = re.findall(r"deregistration_delay\.timeout_seconds=(\d+)", PAGES["cloud"])
    assert len(delays) == 2
    assert min(map(int, delays)) >= drain_s
    (idle,) = re.findall(r"idle_timeout\.timeout_seconds=(\d+)", PAGES["cloud"])
    assert int(idle) > SERVER.time_limit_s
    assert tomllib.loads(only(render(values), "ConfigMap")["data"]["parley.toml"])["server"]["drain_pause_s"] == 30


def test_figures_of_settings_are_their_defaults() -> None:
    stated = [found for text in PAGES.values() for found in re.findall(r"`(\w+_s)`(?: \(|, )(\d+) s\)", text)]
    assert len(stated) > 4
    assert [(name, figure) for name, figure in stated if float(figure) != getattr(SERVER, name)] == []
