"""The containers of the chart run: the migration, and a replica with the probes of its pod."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from tests.deploy.cases import CLUSTER
from tests.deploy.charts import Resource, merged, only, render
from tests.processes import PARLEY, ServerProcess, clean_environment
from tests.services import RedisServer
from tests.unit.test_deploy import image_environment


async def test_a_replica_of_a_cluster_runs_as_rendered(
    tmp_path: Path, empty_postgres_url: str, shared_redis: RedisServer
) -> None:
    rendered = render(merged(CLUSTER, {"config": {"server": {"drain_pause_s": 0.1}}}))
    secrets = {"PARLEY_DATABASE_URL": empty_postgres_url, "PARLEY_REDIS_URL": shared_redis.url()}
    migration = container(only(rendered, "Job"))
    ran = subprocess.run(
        [PARLEY, *migration["args"][1:]],
        env=clean_environment(**environment_of(migration, secrets)),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr

    replica = container(only(rendered, "Deployment"))
    environment = environment_of(replica, secrets)
    for name in ("PARLEY_LISTEN", "PARLEY_METRICS_LISTEN"):  # other ports, which the system chooses
        environment[name] = environment[name].rpartition(":")[0] + ":0"
    del environment["PARLEY_CONFIG"]
    toml = only(rendered, "ConfigMap")["data"]["parley.toml"]
    async with ServerProcess(tmp_path / "replica", toml=toml, forked=True, **environment) as server:
        for name in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert await server.health(replica[name]["grpc"]["service"]) == "SERVING"
        assert (await server.metrics())["parley_replies_active"] == 0
        assert await server.terminate() == 0


def container(resource: Resource) -> Resource:
    (found,) = resource["spec"]["template"]["spec"]["containers"]
    return found


def environment_of(container: Resource, secrets: dict[str, str]) -> dict[str, str]:
    """The environment of a container: the image's, and its own with the values of its Secrets."""

    def value(entry: dict[str, Any]) -> str:
        return secrets[entry["valueFrom"]["secretKeyRef"]["key"]] if "valueFrom" in entry else entry["value"]

    return image_environment() | {each["name"]: value(each) for each in container["env"]}
