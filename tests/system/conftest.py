"""Fixtures: a root file system, the package, and a machine that is set up and serves."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lab.testbed.cloud import Cloud
from tests.system.installed import NEWER, Installed, booted, booted_again, copied_tree, installed_once, set_up

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
ON_BOTH = {"test_package.py", "test_readme.py"}
"""Files that scripts/test-system tries on Debian 12 and 13 each time."""
ON_BOOKWORM = {
    "test_audit.py",
    "test_deployer.py",
    "test_disk.py",
    "test_doctor.py",
    "test_doors.py",
    "test_faults.py",
    "test_renewal.py",
    "test_sandbox.py",
    "test_setup.py",
}
"""Of the others, what it tries on Debian 12, and the rest on 13; at night each goes to the other one too."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave one of both Debians to the night: a boot is most of what a test takes."""
    for item in items:
        debian = item.callspec.params.get("rootfs") if hasattr(item, "callspec") else None
        if debian is None or item.path.parent != Path(__file__).parent or item.path.name in ON_BOTH:
            continue
        if (debian == "bookworm") is not (item.path.name in ON_BOOKWORM):
            item.add_marker(pytest.mark.nightly)


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
def deployer_deb(deb: Path) -> Path:
    """The deployer's package, of the same source and version, beside it."""
    found = deb.with_name(deb.name.replace("vps-secrets-agent_", "vps-secrets-deployer_"))
    assert found.exists(), "run scripts/deb first, or the whole: scripts/test-system"
    return found


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
    return next((tree / "build" / "deb").glob(f"vps-secrets-agent_{NEWER}_all.deb"))


@pytest.fixture
def own_cloud() -> Iterator[Cloud]:
    """A cloud that a test may break."""
    with Cloud() as made:
        yield made


@pytest.fixture(scope="session")
def layer(rootfs: Path, deb: Path) -> Iterator[Path]:
    """What the package's installation changes, made once for each Debian."""
    with installed_once(rootfs, deb) as made:
        yield made


@pytest.fixture
def fresh(rootfs: Path, deb: Path) -> Iterator[Installed]:
    """A machine on which the package was installed since it booted, without a configuration."""
    with booted(rootfs, deb) as machine:
        yield machine


@pytest.fixture
def bare(rootfs: Path, layer: Path, deb: Path) -> Iterator[Installed]:
    """A machine that booted with the package, without a configuration."""
    with booted_again(rootfs, layer, deb) as machine:
        yield machine


@pytest.fixture(scope="module")
def serving(rootfs: Path, layer: Path, deb: Path, cloud: Cloud) -> Iterator[Installed]:
    """A machine that serves two secrets to the user recruitiq; for tests that leave it so."""
    with booted_again(rootfs, layer, deb) as machine:
        set_up(machine, cloud, f"vps-{rootfs.name}-{id(machine)}")
        yield machine


@pytest.fixture
def own(rootfs: Path, layer: Path, deb: Path, cloud: Cloud) -> Iterator[Installed]:
    """The same for one test, which may stop, pause or kill the cloud's services: they are back at its end."""
    try:
        with booted_again(rootfs, layer, deb) as machine:
            set_up(machine, cloud, machine.name)
            yield machine
    finally:
        for service, pid in cloud.testbed.pids.items():
            if pid is None:
                cloud.testbed.restart(service)
            else:
                cloud.testbed.resume(service)
