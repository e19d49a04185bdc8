"""Fixtures: a root file system, the package, and a machine that is set up and serves."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lab.testbed.cloud import Cloud
from tests.system.installed import NEWER, Installed, booted, copied_tree, set_up

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session", params=["bookworm", "trixie"])
def rootfs(request: pytest.FixtureRequest) -> Path:
    """The root file system of one Debian."""
    path: Path = ROOT / "build" / "rootfs" / request.param
    assert (path / "usr").is_dir(), "run scripts/rootfs first, or the whole: scripts/test-system"
    return path.resolve()


@pytest.fixture(scope="session")
def deb() -> Path:
    """The package that scripts/deb built."""
    found = sorted((ROOT / "build" / "deb").glob("vps-secrets-agent_*_all.deb"))
    assert found, "run scripts/deb first, or the whole: scripts/test-system"
    return found[-1]


@pytest.fixture(scope="session")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same source as another version, built as one builds it."""
    tree = tmp_path_factory.mktemp("newer")
    copied_tree(tree)
    for name in ("agent/__init__.py", "packaging/debian/changelog"):
        path = tree / name
        path.write_text(re.sub(r"\d+\.\d+\.\d+", NEWER, path.read_text(), count=1))
    built = subprocess.run(["scripts/deb"], cwd=tree, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return next((tree / "build" / "deb").glob(f"*_{NEWER}_all.deb"))


@pytest.fixture
def own_cloud() -> Iterator[Cloud]:
    """A cloud that a test may break."""
    with Cloud() as made:
        yield made


@pytest.fixture
def bare(rootfs: Path, deb: Path) -> Iterator[Installed]:
    """A machine on which nothing but the package is installed, without a configuration."""
    with booted(rootfs, deb) as machine:
        yield machine


@pytest.fixture(scope="module")
def serving(rootfs: Path, deb: Path, cloud: Cloud) -> Iterator[Installed]:
    """A machine that serves two secrets to the user recruitiq; for tests that leave it so."""
    with booted(rootfs, deb) as machine:
        set_up(machine, cloud, f"vps-{rootfs.name}-{id(machine)}")
        yield machine


@pytest.fixture
def own(rootfs: Path, deb: Path, own_cloud: Cloud) -> Iterator[Installed]:
    """The same with a cloud that may be broken."""
    with booted(rootfs, deb) as machine:
        set_up(machine, own_cloud, "vps-prod-001")
        yield machine
