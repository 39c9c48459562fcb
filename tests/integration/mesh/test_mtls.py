"""Envoy with deploy/envoy-tls.yaml: mutual TLS to Parley, which identifies callers by their own credentials."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
from parley.v1 import conversations_pb2, conversations_pb2_grpc
from parley_server.app import App
from parley_server.settings import load_settings

from tests.integration.mesh.proxies import Envoy, envoy_binary
from tests.integration.process.watching import error_of, reason_of
from tests.integration.served import tenant
from tests.processes import open_channel, until
from tests.tools import tool

# One process starts the servers once.
pytestmark = [pytest.mark.xdist_group("mtls"), pytest.mark.asyncio(loop_scope="module")]
EC = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
BANK = "spiffe://cluster.local/ns/bank/sa/backend"
ACCESS = tenant("shop", "key-of-shop") + f"[tenants.bank]\ncertificates = ['{BANK}']\n"
SHOP = (("authorization", "Bearer key-of-shop"),)
FORGED = (("x-forwarded-client-cert", f"By=spiffe://cluster.local/ns/parley/sa/parley;Hash=00;URI={BANK}"),)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """Certificates of Parley and of Envoy by one authority, and one of Envoy's name by another."""
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments: str) -> None:
        subprocess.run([tool("openssl"), *arguments], cwd=folder, check=True, capture_output=True)

    for authority in ("ca", "other-ca"):
        files = ["-keyout", f"{authority}.key", "-out", f"{authority}.pem"]
        openssl("req", "-x509", *EC, "-days", "2", *files, "-subj", f"/CN={authority}")
    names = {"parley": "DNS:parley,IP:127.0.0.1", "envoy": "DNS:envoy", "stranger": "DNS:envoy"}
    for name, alternatives in names.items():
        authority = "other-ca" if name == "stranger" else "ca"
        (folder / "extensions").write_text(f"subjectAltName={alternatives}\n")
        openssl("req", *EC, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        signed = ["-CA", f"{authority}.pem", "-CAkey", f"{authority}.key", "-CAcreateserial", "-days", "2"]
        openssl("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", *signed, "-extfile", "extensions")
    return folder


@contextlib.asynccontextmanager
async def parley(folder: Path, certificates: Path, *, client_ca: str = "ca.pem", port: int = 0):
    """Parley, which requires certificates of an authority; one names a tenant."""
    folder.mkdir()
    files = {"certificate": "parley.pem", "key": "parley.key", "client_ca": client_ca}
    tls = "\n".join(f'{name} = "{certificates / file}"' for name, file in files.items())
    (folder / "parley.toml").write_text(f"[tls]\n{tls}\n{ACCESS}")
    app = App(
        load_settings(
            {
                "PARLEY_CONFIG": str(folder / "parley.toml"),
                "PARLEY_LISTEN": f"127.0.0.1:{port}",
                "PARLEY_METRICS_LISTEN": "",
                "PARLEY_DATABASE_URL": f"sqlite+aiosqlite:///{folder / 'parley.db'}",
            }
        )
    )
    await app.start()
    try:
        yield app
    finally:
        await app.stop(grace_s=0.0)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory, certificates):
    """Parley, as the tests call it."""
    async with parley(tmp_path_factory.mktemp("mtls") / "server", certificates) as app:
        yield app


def present(folder: Path, certificates: Path, name: str, authorities: Sequence[str] = ("ca",)) -> None:
    """Give Envoy a certificate and authorities, or exchange them, as the kubelet does in a mounted Secret: the names
    are links into a folder, and the link to that folder is replaced."""
    files = {"tls.crt": [f"{name}.pem"], "tls.key": [f"{name}.key"], "ca.crt": [f"{each}.pem" for each in authorities]}
    version = Path(tempfile.mkdtemp(dir=folder, prefix="..version-"))
    for file, sources in files.items():
        (version / file).write_bytes(b"".join((certificates / source).read_bytes() for source in sources))
        if not (folder / file).is_symlink():
            (folder / file).symlink_to(f"..data/{file}")
    (folder / "..next").symlink_to(version.name)
    (folder / "..next").replace(folder / "..data")


@contextlib.asynccontextmanager
async def envoy_to(server, folder: Path):
    """Envoy, once the server has answered it by mutual TLS with the files in `folder`; a plaintext channel to it."""
    envoy_binary()
    with Envoy(folder.with_name("envoy"), server.port, tls=folder) as envoy:

        async def healthy() -> bool:
            return envoy.stat("cluster.parley.membership_healthy") == 1

        await until(healthy, "Parley's health answers Envoy", limit_s=20)
        async with open_channel(f"127.0.0.1:{envoy.port}") as channel:
            yield envoy, channel


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def through_envoy(tmp_path_factory, server, certificates):
    """A plaintext channel to Envoy, which connects to Parley by mutual TLS."""
    folder = tmp_path_factory.mktemp("through-envoy") / "tls"
    folder.mkdir()
    present(folder, certificates, "envoy")
    async with envoy_to(server, folder) as (_, channel):
        yield channel


async def create(channel: grpc.aio.Channel, *metadata: tuple[str, str]):
    """Create a conversation."""
    request = conversations_pb2.CreateConversationRequest()
    stub = conversations_pb2_grpc.ConversationsStub(channel)
    return await stub.CreateConversation(request, metadata=metadata, timeout=15)


async def refused(channel: grpc.aio.Channel, *metadata: tuple[str, str]) -> str:
    """The reason why that is refused, or the name of the status if no server has answered."""
    with pytest.raises(grpc.aio.AioRpcError) as status:
        await create(channel, *metadata)
    return reason_of(error_of(status.value)) or status.value.code().name


async def test_callers_are_identified_by_their_own_credentials(through_envoy):
    made = await create(through_envoy, *SHOP, ("x-end-user", "ada"))
    assert (bool(made.id), made.end_user) == (True, "ada")
    assert await refused(through_envoy) == "UNAUTHENTICATED"
    assert await refused(through_envoy, ("authorization", "Bearer wrong")) == "UNAUTHENTICATED"


async def test_a_forged_certificate_header_changes_nothing(through_envoy, server, certificates):
    """Through Envoy, and by a caller that has Envoy's certificate."""
    request = conversations_pb2.ListConversationsRequest()
    async with direct(server, certificates, "envoy") as channel:
        for each in (through_envoy, channel):
            assert await refused(each, *FORGED) == "UNAUTHENTICATED"
            made = await create(each, *SHOP, *FORGED)
            listed = await conversations_pb2_grpc.ConversationsStub(each).ListConversations(request, metadata=SHOP)
            assert made.id in {conversation.id for conversation in listed.conversations}


@pytest.mark.parametrize("name", ["", "stranger"])
async def test_a_proxy_needs_a_certificate_of_the_authority(server, certificates, name):
    async with direct(server, certificates, name) as channel:
        assert await refused(channel, *SHOP) == "UNAVAILABLE"


async def test_envoy_presents_its_renewed_certificate_without_a_restart(tmp_path, certificates):
    """The second server accepts only certificates of the other authority."""
    folder = tmp_path / "tls"
    folder.mkdir()
    present(folder, certificates, "envoy")
    async with contextlib.AsyncExitStack() as stack:
        async with parley(tmp_path / "first", certificates) as first:
            _, channel = await stack.enter_async_context(envoy_to(first, folder))
            assert (await create(channel, *SHOP)).id
            present(folder, certificates, "stranger")
        second = parley(tmp_path / "second", certificates, client_ca="other-ca.pem", port=first.port)
        await stack.enter_async_context(second)

        async def answered() -> bool:
            with contextlib.suppress(grpc.aio.AioRpcError):
                return bool((await create(channel, *SHOP)).id)
            return False

        await until(answered, "Envoy connects with its new certificate", limit_s=30)


@contextlib.asynccontextmanager
async def direct(server: App, certificates, name: str):
    """A TLS channel to Parley with the certificate `name`, if any."""
    root = (certificates / "ca.pem").read_bytes()
    own = [(certificates / f"{name}.{kind}").read_bytes() if name else None for kind in ("key", "pem")]
    credentials = grpc.ssl_channel_credentials(root, *own)
    options = (("grpc.ssl_target_name_override", "parley"), ("grpc.use_local_subchannel_pool", 1))
    async with grpc.aio.secure_channel(f"127.0.0.1:{server.port}", credentials, options=options) as channel:
        yield channel
