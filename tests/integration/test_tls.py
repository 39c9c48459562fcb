"""TLS and mTLS by certificate files, over real sockets."""

import os
import shutil
import subprocess

import grpc
import parley
import pytest
from parley_server.app import App
from parley_server.settings import load_settings

KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]


@pytest.fixture
def openssl(tmp_path):
    """Runs openssl in the test's folder."""
    command = shutil.which("openssl")
    if command is None and os.environ.get("CI"):
        pytest.fail("openssl is not installed")
    if command is None:
        pytest.skip("openssl is not installed")

    def run(*arguments):
        subprocess.run([command, *arguments], cwd=tmp_path, check=True, capture_output=True)

    return run


@pytest.fixture
def pki(openssl, tmp_path):
    """An authority, and certificates that it has signed for a server of this machine and for a client."""
    openssl("req", "-x509", *KEY, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test authority")
    (tmp_path / "server.ext").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    (tmp_path / "client.ext").write_text("extendedKeyUsage=clientAuth\n")
    for name in ("server", "client"):
        openssl("req", *KEY[:-2], "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        signing = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", f"{name}.ext"]
        openssl("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", *signing)
    return {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.suffix in (".pem", ".key")}


@pytest.fixture
async def serve(tmp_path):
    """Starts a server with a [tls] table; its port."""
    apps = []

    async def start(**tls):
        lines = [f'{name} = "{tmp_path / file}"' for name, file in tls.items()]
        (tmp_path / "parley.toml").write_text("\n".join(["[tls]", *lines]))
        settings = load_settings(
            {
                "PARLEY_CONFIG": str(tmp_path / "parley.toml"),
                "PARLEY_LISTEN": "127.0.0.1:0",
                "PARLEY_METRICS_LISTEN": "",
                "PARLEY_DATABASE_URL": f"sqlite+aiosqlite:///{tmp_path / 'parley.db'}",
            }
        )
        apps.append(App(settings))
        await apps[-1].start()
        return apps[-1].port

    yield start
    for app in apps:
        await app.stop(grace_s=0.0)


async def answer(port, credentials, host="localhost"):
    backoff = parley.Backoff(max_elapsed_s=0.0)
    async with parley.Client(f"{host}:{port}", tls=credentials, backoff=backoff) as client:
        return await client.create_reply('/script {"text":"sealed","delay_s":0} Hello')


async def test_a_server_with_a_certificate(pki, serve):
    port = await serve(certificate="server.pem", key="server.key")
    trusting = grpc.ssl_channel_credentials(pki["ca.pem"])
    reply = await answer(port, trusting)
    assert reply.message.parts[0].text == "sealed"
    for wrong in (False, grpc.ssl_channel_credentials(pki["client.pem"])):  # no TLS; another authority
        with pytest.raises(parley.ParleyError) as failed:
            await answer(port, wrong)
        assert failed.value.code is grpc.StatusCode.UNAVAILABLE


async def test_a_server_that_asks_for_a_clients_certificate(pki, serve):
    port = await serve(certificate="server.pem", key="server.key", client_ca="ca.pem")
    known = grpc.ssl_channel_credentials(pki["ca.pem"], pki["client.key"], pki["client.pem"])
    assert (await answer(port, known)).message.parts[0].text == "sealed"
    with pytest.raises(parley.ParleyError) as failed:
        await answer(port, grpc.ssl_channel_credentials(pki["ca.pem"]))
    assert failed.value.code is grpc.StatusCode.UNAVAILABLE
