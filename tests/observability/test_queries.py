"""Every query of the dashboard and of the alert rules returns series of running replicas, in a real Prometheus."""

from __future__ import annotations

import asyncio
import contextlib
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.observability.rules import FOLDER, alerts, panel_queries, selectors, targets, value_query
from tests.observability.servers import Exporter, Prometheus
from tests.observability.traffic import answer_by_model, running_pair, send_traffic
from tests.ports import free_port
from tests.processes import ServerProcess, until
from tests.services import PostgresServer, RedisServer
from tests.tools import tool
from tests.upstream import Upstream

pytestmark = pytest.mark.xdist_group("prometheus")  # one process, which starts everything once

PROGRAMS = ("openssl", "prometheus", *(f"prometheus-{name}-exporter" for name in ("node", "postgres", "redis")))
PROCESSES = 4
SCRAPES = 2


class Answers:
    """What Prometheus answered after the traffic: series by query, and its alert rules."""

    def __init__(self, series: dict[str, list[dict[str, Any]]], rules: list[dict[str, Any]]) -> None:
        self.series = series
        self.rules = rules

    def without_series(self, queries: dict[str, str]) -> dict[str, str]:
        """Those of these queries that returned nothing, by name."""
        return {name: query for name, query in queries.items() if not self.series[query]}


@pytest.fixture(scope="module")
def answers(
    tmp_path_factory: pytest.TempPathFactory,
    shared_postgres: PostgresServer,
    _migrated_template: str,
    _shared_redis: RedisServer,
) -> Answers:
    """Starts everything once, sends the traffic and asks all queries."""
    for program in PROGRAMS:
        tool(program)  # skips if it is missing
    _shared_redis.clear()
    database = shared_postgres.create_database(template=_migrated_template)
    folder = tmp_path_factory.mktemp("observability")
    return asyncio.run(_observe(folder, shared_postgres, _shared_redis, shared_postgres.url(database)))


async def _observe(folder: Path, postgres: PostgresServer, redis: RedisServer, database_url: str) -> Answers:
    ports = [free_port(), free_port(), free_port()]
    with contextlib.ExitStack() as stack:
        # Before the servers, because Prometheus begins to scrape 5 s after its start.
        prometheus = await asyncio.to_thread(_start, stack, folder, ports, postgres, redis)

        async def scraped(series: str) -> float:
            """The time, once Prometheus has all processes and two samples of these series; else 0."""
            now = time.time()
            running = await asyncio.to_thread(prometheus.value, "count(parley_lease_held)", now)
            samples = await asyncio.to_thread(prometheus.value, f"min(count_over_time({series}[5m]))", now)
            return now if running == PROCESSES and samples >= SCRAPES else 0.0

        async with (
            Upstream() as upstream,
            running_pair(folder, ports[:2], database_url, redis.url(), upstream.url) as pair,
            _with_a_certificate(folder / "tls", ports[2]),
        ):
            upstream.reply_with(answer_by_model())
            await until(lambda: scraped("parley_lease_held"), "all processes are scraped", limit_s=60)
            await send_traffic(pair)
            at_s = await until(
                lambda: scraped("parley_quota_refusals_total"), "the end of the traffic is scraped", limit_s=60
            )
            return await asyncio.to_thread(_ask, prometheus, at_s)


class _SecureServer(ServerProcess):
    """A server with a certificate of its own for localhost."""

    async def health(self, service: str = "") -> str:
        """See `ServerProcess`."""
        credentials = grpc.ssl_channel_credentials((self.folder / "tls.crt").read_bytes())
        async with grpc.aio.secure_channel(f"localhost:{self.port}", credentials) as channel:
            answer = await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=service), timeout=5, wait_for_ready=True
            )
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def _with_a_certificate(folder: Path, metrics_port: int) -> ServerProcess:
    """A standalone server with TLS."""
    folder.mkdir()
    files = {"key": folder / "tls.key", "certificate": folder / "tls.crt"}
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", str(files["key"])]
    command = [
        tool("openssl"),
        "req",
        "-x509",
        *key,
        "-out",
        str(files["certificate"]),
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=DNS:localhost",
    ]
    subprocess.run(command, check=True, capture_output=True)
    toml = "\n".join(["[tls]", *(f'{name} = "{file}"' for name, file in files.items())])
    return _SecureServer(folder, toml=toml, forked=True, PARLEY_METRICS_LISTEN=f"127.0.0.1:{metrics_port}")


def _start(
    stack: contextlib.ExitStack, folder: Path, ports: list[int], postgres: PostgresServer, redis: RedisServer
) -> Prometheus:
    listen = "--web.listen-address=127.0.0.1:{port}"
    of_redis = Exporter(
        folder / "redis", "prometheus-redis-exporter", f"-redis.addr={redis.url()}", listen.removeprefix("-")
    )
    source = {"DATA_SOURCE_NAME": postgres.url().replace("+asyncpg", "") + "?sslmode=disable"}
    queries = f"--extend.query-path={FOLDER / 'postgres-exporter.yaml'}"
    of_postgres = Exporter(folder / "postgres", "prometheus-postgres-exporter", listen, queries, variables=source)
    only_disks = ("--collector.disable-defaults", "--collector.filesystem")
    of_machine = Exporter(folder / "machine", "prometheus-node-exporter", listen, *only_disks)
    targets = {
        "parley": ports,
        "redis": [stack.enter_context(of_redis).port],
        "postgresql": [stack.enter_context(of_postgres).port],
        "postgresql-machine": [stack.enter_context(of_machine).port],
    }
    return stack.enter_context(Prometheus(folder / "prometheus", targets))


def _ask(prometheus: Prometheus, at_s: float) -> Answers:
    expressions = [rule["expr"] for rule in alerts().values()]
    read = [selector for expression in expressions for selector in selectors(expression)]
    values = [value_query(expression) for expression in expressions]
    queries = dict.fromkeys([*panel_queries().values(), *read, *values])
    return Answers({query: prometheus.query(query, at_s) for query in queries}, prometheus.rules())


def test_every_query_of_the_dashboard_returns_series(answers: Answers) -> None:
    assert answers.without_series(panel_queries()) == {}


def test_legends_name_labels_that_the_series_have(answers: Answers) -> None:
    queries = panel_queries()
    for name, target in targets().items():
        named = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
        labels = {label for series in answers.series[queries[name]] for label in series["metric"]}
        assert named <= labels, name


def test_everything_that_an_alert_reads_has_series(answers: Answers) -> None:
    read = {selector: selector for rule in alerts().values() for selector in selectors(rule["expr"])}
    assert answers.without_series(read) == {}


def test_the_value_of_every_alert_has_series(answers: Answers) -> None:
    values = {name: value_query(rule["expr"]) for name, rule in alerts().items()}
    assert answers.without_series(values) == {}


def test_prometheus_evaluates_every_rule(answers: Answers) -> None:
    assert {rule["name"]: rule["health"] for rule in answers.rules} == dict.fromkeys(alerts(), "ok")


def test_the_traffic_raises_the_alerts_that_wait_for_nothing(answers: Answers) -> None:
    raised = {rule["name"] for rule in answers.rules if rule["state"] == "firing"}
    assert {"ParleyReplyTakenOver", "ParleyProviderMisconfigured"} <= raised
    assert not raised & {"ParleyAbsent", "ParleyErrorLogged", "ParleyReloadFailed"}
