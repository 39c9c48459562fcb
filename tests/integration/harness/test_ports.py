"""A port is given once, to whichever process asks."""

import subprocess
import sys

from tests.integration.harness.test_services import ROOT
from tests.ports import _reserve, free_port

ASKS = "import sys; from tests.ports import _reserve; print(_reserve(int(sys.argv[1])))"


def asked_elsewhere(port: int) -> str:
    return subprocess.check_output([sys.executable, "-c", ASKS, str(port)], cwd=ROOT, text=True).strip()


def test_a_port_is_given_once():
    ports = [free_port() for _ in range(50)]
    assert len(set(ports)) == 50
    assert not _reserve(ports[0])
    assert asked_elsewhere(ports[0]) == "False"
