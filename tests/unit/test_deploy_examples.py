"""examples/compose.yaml fits the examples, their Dockerfiles, and the Parley that they share."""

from __future__ import annotations

import fnmatch
import hashlib
import re
import tomllib
from pathlib import Path, PurePosixPath

import pytest
import yaml
from parley_server.settings import Settings, is_sqlite, load_settings

from tests.unit.test_deploy import SERVICES as REPLICATED
from tests.unit.test_deploy import fits, image_environment, seconds

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
SERVICES = yaml.safe_load((EXAMPLES / "compose.yaml").read_text())["services"]
PRODUCTS = sorted(path.parent.name for path in EXAMPLES.glob("*/Dockerfile"))
TENANTS = {"spring-boot": "story"}
"""Of products whose tenant has another name."""


def environment_of(service: str) -> dict[str, str]:
    """The environment of a service, with the defaults of compose's variables."""
    given = SERVICES[service]["environment"].items()
    return {key: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", str(value)) for key, value in given}


def shared() -> Settings:
    """The settings of the Parley of all products."""
    environment = image_environment() | environment_of("parley")
    return load_settings(environment | {"PARLEY_CONFIG": str(EXAMPLES / "parley.toml")})


def key_digest(service: str, variable: str = "PARLEY_API_KEY") -> str:
    return hashlib.sha256(environment_of(service)[variable].encode()).hexdigest()


def dockerfile(product: str) -> str:
    return (EXAMPLES / product / "Dockerfile").read_text()


def test_each_product_has_an_entry() -> None:
    built = {name for name, service in SERVICES.items() if isinstance(service.get("build"), dict)}
    assert built == set(PRODUCTS)
    assert len(PRODUCTS) == 5


def test_parley_loads_with_credentials_and_has_time_to_drain() -> None:
    settings = shared()
    assert not is_sqlite(settings.database_url)
    assert settings.redis_url is not None
    assert not settings.is_open
    assert fits(settings, seconds(SERVICES["parley"]["stop_grace_period"]))


@pytest.mark.parametrize("product", PRODUCTS)
def test_a_product_is_built_and_published_on_loopback(product: str) -> None:
    build = SERVICES[product]["build"]
    assert (EXAMPLES / build["context"] / build["dockerfile"]).samefile(EXAMPLES / product / "Dockerfile")
    (port,) = re.findall(r"^EXPOSE (\d+)$", dockerfile(product), re.MULTILINE)
    (published,) = SERVICES[product]["ports"]
    assert re.fullmatch(rf"127\.0\.0\.1:\d+:{port}", published)
    assert SERVICES[product]["depends_on"] == {"parley": {"condition": "service_healthy"}}


def test_published_ports_differ() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert len({port.split(":")[1] for port in ports}) == len(ports)


@pytest.mark.parametrize("product", PRODUCTS)
def test_a_product_has_the_key_of_its_tenant_and_a_key_for_tokens(product: str) -> None:
    assert key_digest(product) in shared().tenants[TENANTS.get(product, product)].api_keys_sha256
    assert len(environment_of(product)["CHAT_JWT_KEY"].encode()) >= 32


def test_only_operators_of_roleplay_may_store_keys() -> None:
    tenants = shared().tenants
    assert [name for name, tenant in tenants.items() if "admin" in tenant.roles] == ["operators"]
    assert key_digest("roleplay", "PARLEY_ADMIN_KEY") in tenants["operators"].api_keys_sha256
    assert environment_of("roleplay")["PARLEY_TENANT"] in tenants


@pytest.mark.parametrize("product", [each for each in PRODUCTS if (EXAMPLES / each / "parley.toml").exists()])
def test_a_tenant_has_the_limits_of_the_product(product: str) -> None:
    own = tomllib.loads((EXAMPLES / product / "parley.toml").read_text())
    alone = own.get("tenants", {}).get("default", {})
    together = tomllib.loads((EXAMPLES / "parley.toml").read_text())
    tenant = together["tenants"][TENANTS.get(product, product)]
    for name in ("limits", "quotas"):
        assert tenant.get(name) == alone.get(name)
    for name in ("hold_output_tokens", "max_readers_per_reply"):
        assert own.get("server", {}).get(name) in (None, together["server"][name])


@pytest.mark.parametrize("name", ["postgres", "redis"])
def test_databases_are_those_of_the_other_compose_file(name: str) -> None:
    assert SERVICES[name] == REPLICATED[name]


@pytest.mark.parametrize("product", PRODUCTS)
def test_each_base_of_an_image_is_an_argument(product: str) -> None:
    arguments = dict(re.findall(r"^ARG (BASE|[A-Z]+_BASE)=(\S+)$", dockerfile(product), re.MULTILINE))
    stages = re.findall(r"^FROM (\S+)", dockerfile(product), re.MULTILINE)
    assert "BASE" in arguments
    assert set(stages) == {f"${{{name}}}" for name in arguments}
    assert stages[-1] == "${BASE}"


@pytest.mark.parametrize("product", PRODUCTS)
def test_an_image_is_built_from_files_that_reach_the_builder(product: str) -> None:
    lines = re.findall(r"^COPY (?!--from)(.+)$", dockerfile(product), re.MULTILINE)
    sources = [source for line in lines for source in line.split()[:-1]]
    assert sources
    assert [source for source in sources if not list(ROOT.glob(source))] == []
    rules = (EXAMPLES / product / "Dockerfile.dockerignore").read_text().splitlines()
    assert [source for source in sources if not reaches(source, rules)] == []
    assert reaches(f"{sources[0]}/node_modules/any/file", rules) is False


def reaches(path: str, rules: list[str]) -> bool:
    """Whether a path is sent to the builder: the last rule decides that fits the path or a folder of it."""
    found = True
    tried = [PurePosixPath(path), *PurePosixPath(path).parents]
    for rule in rules:
        pattern = rule.removeprefix("!").removesuffix("/")
        if pattern and not pattern.startswith("#") and any(_fits(str(each), pattern) for each in tried):
            found = rule.startswith("!")
    return found


def _fits(path: str, pattern: str) -> bool:
    anywhere = pattern.removeprefix("**/")
    if anywhere != pattern:
        return any(fnmatch.fnmatch(part, anywhere) for part in PurePosixPath(path).parts)
    return fnmatch.fnmatch(path, pattern) and path.count("/") == pattern.count("/")
