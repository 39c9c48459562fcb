"""TLS and mTLS by certificate files, over real sockets."""

import asyncio
import contextlib
import socket
import ssl
import subprocess
import time
from functools import partial

import grpc
import parley
import pytest
from parley.errors import Unauthenticated
from parley_server.app import App
from parley_server.rpc.tls import Certificates
from parley_server.settings import SettingsSource, load_settings

from tests.clock import ManualClock, until
from tests.integration.process.test_start import command
from tests.integration.served import tenant
from tests.tools import tool

KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
DAY_S = 86400

CLIENT_NAMES = ["DNS:shop.internal", "URI:spiffe://cluster.local/ns/shop/sa/backend"]


@pytest.fixture
def openssl(tmp_path):
    """Runs openssl in the test's folder."""
    command = tool("openssl")

    def run(*arguments):
        subprocess.run([command, *arguments], cwd=tmp_path, check=True, capture_output=True)

    return run


@pytest.fixture
def sign(openssl, tmp_path):
    """Creates an authority with a server and a client certificate; returns the contents of the files by name."""

    def make(client_names=CLIENT_NAMES):
        openssl("req", "-x509", *KEY, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test authority")
        (tmp_path / "server.ext").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        (tmp_path / "client.ext").write_text(f"extendedKeyUsage=clientAuth\nsubjectAltName={','.join(client_names)}\n")
        for name in ("server", "client"):
            openssl("req", *KEY[:-2], "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
            signing = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", f"{name}.ext"]
            openssl("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", *signing)
        return {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.suffix in (".pem", ".key")}

    return make


@pytest.fixture
def pki(sign):
    """The files of `sign`, already created."""
    return sign()


@pytest.fixture
async def serve(tmp_path):
    """Starts a server with a [tls] table; its port."""
    apps = []

    async def start(*, listen="127.0.0.1:0", access="", **tls):
        lines = [f'{name} = "{tmp_path / file}"' for name, file in tls.items()]
        (tmp_path / "parley.toml").write_text("\n".join(["[tls]", *lines, access]))
        settings = load_settings(
            {
                "PARLEY_CONFIG": str(tmp_path / "parley.toml"),
                "PARLEY_LISTEN": listen,
                "PARLEY_METRICS_LISTEN": "",
                "PARLEY_DATABASE_URL": f"sqlite+aiosqlite:///{tmp_path / 'parley.db'}",
            }
        )
        apps.append(App(settings))
        await apps[-1].start()
        return apps[-1]

    yield start
    for app in apps:
        await app.stop(grace_s=0.0)


async def answer(port, credentials, host="localhost", api_key=""):
    """The text of a reply over a new connection."""
    backoff = parley.Backoff(max_elapsed_s=0.0)
    async with parley.Client(f"{host}:{port}", tls=credentials, backoff=backoff, api_key=api_key) as client:
        reply = await client.create_reply('/script {"text":"sealed","delay_s":0} Hello')
        return reply.message.parts[0].text


async def assert_refused(port, credentials):
    with pytest.raises(parley.ParleyError) as failed:
        await answer(port, credentials)
    assert failed.value.code is grpc.StatusCode.UNAVAILABLE


def trusting(files):
    """Credentials of a client that has no certificate."""
    return grpc.ssl_channel_credentials(files["ca.pem"])


def as_client(files):
    """Credentials of a client with a certificate."""
    return grpc.ssl_channel_credentials(files["ca.pem"], files["client.key"], files["client.pem"])


async def test_a_server_with_a_certificate_refuses_untrusting_clients(pki, serve):
    port = (await serve(certificate="server.pem", key="server.key")).port
    assert await answer(port, trusting(pki)) == "sealed"
    await assert_refused(port, False)
    await assert_refused(port, grpc.ssl_channel_credentials(pki["client.pem"]))  # another authority


async def test_a_server_with_a_client_ca_refuses_clients_without_certificate(pki, serve):
    port = (await serve(certificate="server.pem", key="server.key", client_ca="ca.pem")).port
    assert await answer(port, as_client(pki)) == "sealed"
    await assert_refused(port, trusting(pki))


MUTUAL = {"certificate": "server.pem", "key": "server.key", "client_ca": "ca.pem"}
SHOP = "[tenants.shop]\ncertificates = ['spiffe://cluster.local/ns/shop/sa/backend']\n"
SHOP_BY_DNS = "[tenants.shop]\ncertificates = ['dns:shop.internal']\n"


@pytest.mark.parametrize(
    ("access", "names", "key", "credential"),
    [
        (SHOP, CLIENT_NAMES, "", "cert:spiffe://cluster.local/ns/shop/sa/backend"),
        (SHOP_BY_DNS, CLIENT_NAMES, "", "cert:dns:shop.internal"),
        (SHOP + tenant("bank", "key"), CLIENT_NAMES, "key", "key:2c70e12b"),
        (SHOP + tenant("bank", "key"), CLIENT_NAMES, "wrong", None),
        (SHOP, ["URI:spiffe://cluster.local/ns/shop/sa/backend2"], "", None),
        (SHOP, ["DNS:spiffe://cluster.local/ns/shop/sa/backend"], "", None),
        (SHOP_BY_DNS, ["URI:dns:shop.internal"], "", None),
        (SHOP_BY_DNS, ["DNS:shop.internal.example.com", "email:shop.internal@x"], "", None),
    ],
)
async def test_a_client_certificate_names_the_tenant(sign, serve, caplog, access, names, key, credential):
    """A bearer goes first: a wrong one is refused, whatever the certificate."""
    files = sign(names)
    app = await serve(**MUTUAL, access=access)
    with caplog.at_level("INFO", "parley.call"):
        if credential:
            assert await answer(app.port, as_client(files), api_key=key) == "sealed"
        else:
            with pytest.raises(Unauthenticated):
                await answer(app.port, as_client(files), api_key=key)
        await until(lambda: bool(caplog.records))  # the line is written after the status
    assert caplog.records[-1].fields.get("credential") == credential


async def test_a_certificate_of_a_header_is_never_read(sign, serve):
    files = sign(["DNS:other"])
    app = await serve(**MUTUAL, access=SHOP)
    header = ("x-forwarded-client-cert", "URI=spiffe://cluster.local/ns/shop/sa/backend")
    async with grpc.aio.secure_channel(f"localhost:{app.port}", as_client(files)) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/parley.v1.Catalog/ListModels")(b"", metadata=[header])
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def renew(app):
    """Renew now, as the app does once a minute; returns whether a file was new."""
    return await asyncio.to_thread(app.certificates.renew)


async def test_new_certificates_are_loaded_while_the_server_runs(pki, sign, serve):
    app = await serve(certificate="server.pem", key="server.key", client_ca="ca.pem")
    assert await renew(app) is False  # nothing is new
    async with parley.Client(f"localhost:{app.port}", tls=as_client(pki)) as before:
        stream = before.stream_reply('/script {"text":"a ","repeat":4,"delay_s":0.02}')
        async with contextlib.aclosing(stream):
            await anext(stream)
            renewed = sign()
            assert await renew(app)
            await assert_refused(app.port, as_client(pki))
            assert await answer(app.port, as_client(renewed)) == "sealed"
            # The open connection stays.
            async for _ in stream:
                pass
        assert stream.text == "a a a a "
        # The removed authority has signed the client's certificate.
        old = grpc.ssl_channel_credentials(renewed["ca.pem"], pki["client.key"], pki["client.pem"])
        await assert_refused(app.port, old)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=str)
async def test_a_resumed_tls_session_is_checked_again(pki, sign, tmp_path, serve, version):
    app = await serve(certificate="server.pem", key="server.key", client_ca="ca.pem")
    caller = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    caller.check_hostname, caller.verify_mode = False, ssl.CERT_NONE
    caller.set_alpn_protocols(["h2"])
    caller.minimum_version = caller.maximum_version = version
    caller.load_cert_chain(tmp_path / "client.pem", tmp_path / "client.key")

    def handshake(session=None):
        with (
            socket.create_connection(("127.0.0.1", app.port)) as plain,
            caller.wrap_socket(plain, session=session) as wire,
        ):
            wire.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
            if not wire.recv(1):  # of the server's SETTINGS, with which it has accepted the certificate
                raise ConnectionResetError
            return wire.session

    kept = await asyncio.to_thread(handshake)
    sign()
    assert await renew(app)
    with pytest.raises(OSError):  # noqa: PT011 - an alert or an end, as the version has it
        await asyncio.to_thread(handshake, kept)


async def test_a_caller_without_sni_gets_the_new_certificate(pki, sign, serve):
    app = await serve(certificate="server.pem", key="server.key")
    renewed = sign()
    assert await renew(app)
    assert await answer(app.port, trusting(renewed), host="127.0.0.1") == "sealed"


async def test_mismatched_certificate_files_change_nothing(pki, tmp_path, serve, caplog):
    """The log names the file at fault, once for each fault and not for each attempt."""
    app = await serve(**MUTUAL)
    for file, content in (
        ("server.key", pki["client.key"]),  # of another certificate
        ("server.key", None),
        ("server.pem", b"no certificate"),
        ("ca.pem", b"no certificate"),
    ):
        caplog.clear()
        if content is None:
            (tmp_path / file).unlink()
        else:
            (tmp_path / file).write_bytes(content)
        assert [await renew(app) for _ in range(2)] == [False, False]
        failed = [record for record in caplog.records if record.message == "certificate_reload_failed"]
        assert [record.fields["file"] for record in failed] == [str(tmp_path / file)]
        assert await answer(app.port, as_client(pki)) == "sealed"
        (tmp_path / file).write_bytes(pki[file])
        assert await renew(app)
        assert await answer(app.port, as_client(pki)) == "sealed"


async def test_the_ends_of_certificates_are_shown(pki, serve, openssl, tmp_path):
    """The chain is valid until its first certificate ends, the clients' CA until its last one does."""
    app = await serve(**MUTUAL)

    def days_left():
        value = partial(app.telemetry.registry.get_sample_value, "parley_certificate_end_timestamp_seconds")
        return {file: round((value({"file": file}) - time.time()) / DAY_S) for file in ("certificate", "client_ca")}

    assert days_left() == {"certificate": 2, "client_ca": 2}
    for days in ("1", "9"):
        other = [*KEY[:-1], days, "-keyout", "other.key", "-out", f"{days}.pem", "-subj", "/CN=other"]
        openssl("req", "-x509", *other)
    others = b"".join((tmp_path / f"{days}.pem").read_bytes() for days in ("1", "9"))
    for file in ("server.pem", "ca.pem"):
        (tmp_path / file).write_bytes(pki[file] + others)
    assert await renew(app)
    assert days_left() == {"certificate": 1, "client_ca": 9}


async def test_a_certificate_of_a_form_that_only_openssl_reads_is_used(pki, serve, tmp_path):
    """Its end is not shown."""
    older = ssl.PEM_cert_to_DER_cert(pki["ca.pem"].decode()).replace(
        b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x01", 1
    )
    (tmp_path / "ca.pem").write_bytes(pki["ca.pem"] + ssl.DER_cert_to_PEM_cert(older).encode())
    app = await serve(**MUTUAL)
    value = partial(app.telemetry.registry.get_sample_value, "parley_certificate_end_timestamp_seconds")
    assert value({"file": "certificate"}) > time.time()
    assert value({"file": "client_ca"}) is None
    assert await answer(app.port, as_client(pki)) == "sealed"


def mount(folder, version, files):
    """Put files into a folder, or exchange them, as the kubelet mounts a Secret: the names are links to `..data`, which
    is itself a link to the folder of the present version and is replaced in one step."""
    (folder / version).mkdir(parents=True)
    for name, content in files.items():
        (folder / version / name).write_bytes(content)
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")
    (folder / "..next").symlink_to(version)
    (folder / "..next").replace(folder / "..data")


async def test_a_mounted_secret_is_loaded_on_request(pki, sign, tmp_path, caplog):
    """Running streams continue. A version whose files do not fit together changes nothing, and is logged and shown by a
    metric."""
    secret = tmp_path / "secret"
    mount(secret, "1", pki)
    tls = [f'{name} = "secret/{file}"' for name, file in MUTUAL.items()]
    (tmp_path / "parley.toml").write_text("\n".join(["[tls]", *tls]))
    variables = {
        "PARLEY_CONFIG": str(tmp_path / "parley.toml"),
        "PARLEY_LISTEN": "127.0.0.1:0",
        "PARLEY_METRICS_LISTEN": "",
        "PARLEY_DATABASE_URL": f"sqlite+aiosqlite:///{tmp_path / 'parley.db'}",
    }
    source, requested = SettingsSource(lambda: load_settings(variables), variables["PARLEY_CONFIG"]), asyncio.Event()
    app = App(source.load(), source=source, reload_requested=requested)

    async def reload(event):
        """Request a reload, as SIGHUP does, and wait for this line of the log."""
        caplog.clear()
        requested.set()
        await until(lambda: event in caplog.messages)

    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(caplog.at_level("INFO"))
        stack.push_async_callback(app.stop, grace_s=0.0)
        await app.start()
        client = await stack.enter_async_context(parley.Client(f"localhost:{app.port}", tls=as_client(pki)))
        stream = client.stream_reply('/script {"text":"a ","repeat":40,"delay_s":0.02}')
        await stack.enter_async_context(contextlib.aclosing(stream))
        await anext(stream)
        renewed = sign()
        mount(secret, "2", renewed)
        await reload("certificate_reloaded")
        await assert_refused(app.port, as_client(pki))
        assert await answer(app.port, as_client(renewed)) == "sealed"

        mount(secret, "3", renewed | {"server.key": renewed["client.key"]})
        await reload("config_faulty")
        faults = next(record.fields["faults"] for record in caplog.records if record.message == "config_faulty")
        assert faults == ["tls.certificate, tls.key: must be a PEM certificate and its own key, without a password"]
        assert app.telemetry.registry.get_sample_value("parley_config_faulty") == 1
        assert await answer(app.port, as_client(renewed)) == "sealed"
        async for _ in stream:
            pass
        assert stream.text == "a " * 40


async def test_a_server_reloads_certificates_periodically(pki, sign, tmp_path):
    clock = ManualClock()
    certificates = Certificates(tmp_path / "server.pem", tmp_path / "server.key")
    before = certificates.configuration
    keeping = asyncio.create_task(certificates.keep(clock))
    sign()
    await clock.advance(59.0)
    assert certificates.configuration is before
    await clock.advance(1.0)
    await until(lambda: certificates.configuration is not before)
    keeping.cancel()


async def test_files_that_change_while_they_are_read_are_read_again(pki, sign, tmp_path, monkeypatch):
    certificates = Certificates(tmp_path / "server.pem", tmp_path / "server.key")
    sign()
    read, before = certificates._read, certificates.configuration

    def read_and_change():
        monkeypatch.undo()
        found = read()
        sign()
        return found

    monkeypatch.setattr(certificates, "_read", read_and_change)
    assert [certificates.renew(), certificates.configuration is before] == [False, True]
    assert [certificates.renew(), certificates.configuration is before] == [True, False]


async def test_every_address_of_a_server_shows_the_new_certificate(pki, sign, serve, tmp_path):
    """All gRPC servers of the port, on both loopback addresses, show the new certificate."""
    app = await serve(listen="localhost:0", certificate="server.pem", key="server.key")
    renewed = sign()
    assert await renew(app)
    expected = ssl.PEM_cert_to_DER_cert(renewed["server.pem"].decode())
    context = ssl.create_default_context(cadata=renewed["ca.pem"].decode())
    context.set_alpn_protocols(["h2"])
    for address in ("127.0.0.1", "::1"):
        for _ in range(100):  # the kernel spreads connections over the servers
            _, writer = await asyncio.open_connection(address, app.port, ssl=context, server_hostname="localhost")
            assert writer.get_extra_info("ssl_object").getpeercert(binary_form=True) == expected
            writer.transport.abort()


async def test_the_status_command_trusts_an_authority_and_shows_a_client_certificate(pki, serve, tmp_path):
    port = (await serve(certificate="server.pem", key="server.key", client_ca="ca.pem")).port
    ask = ("status", "--json", "--server", f"localhost:{port}", "--ca", "ca.pem")
    done = await asyncio.to_thread(command, tmp_path, *ask, "--certificate", "client.pem", "--key", "client.key")
    assert (done.returncode, done.stderr) == (0, "")
    assert '"version": ' in done.stdout
    done = await asyncio.to_thread(command, tmp_path, *ask)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"no Parley server at localhost:{port}" in done.stderr
