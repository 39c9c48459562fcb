"""The image of a release, from its archive: loaded where no other image is, it serves."""

from __future__ import annotations

import pytest

from tests.image.containers import Container, loaded
from tests.image.test_image import REPLICA, STREAM, require_root
from tests.unit.test_deploy import seconds
from tools.release.artifacts import Build, make_image
from tools.release.versions import current

pytestmark = [pytest.mark.timeout(1200), pytest.mark.xdist_group("image")]


def test_the_archive_of_a_release_loads_and_streams(tmp_path, monkeypatch) -> None:
    require_root()
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent")  # with buildah, whose layers an earlier build has left
    (tmp_path / "release").mkdir()
    build = Build(current(), tmp_path / "release")
    make_image(build)
    (archive,) = (build.output / "image").iterdir()
    with loaded(archive, tmp_path) as image:
        assert image.config["Labels"]["org.opencontainers.image.version"] == current()
        with Container(image, REPLICA, tmp_path / "container", PARLEY_INSECURE="1") as container:
            read = container.run("python", "-c", STREAM, "Tell me a story.")
            assert "Tell me a story." in read.stdout, read.stderr
            assert container.stop(seconds(REPLICA["stop_grace_period"])) == 0
    archive.unlink()  # pytest keeps the folder for a while
