"""Fixtures: one guest for each Debian."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.qemu.guest import Guest, guest
from tests.system.installed import set_up

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab.testbed.cloud import Cloud

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session", params=[pytest.param("bookworm", marks=pytest.mark.nightly), "trixie"])
def debian(request: pytest.FixtureRequest) -> str:
    """Which Debian it is."""
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def serving(debian: str, cloud: Cloud) -> Iterator[Guest]:
    """A guest that serves two secrets; each test leaves it so."""
    rootfs = ROOT / "build" / "rootfs" / f"{debian}-kernel"
    debs = sorted((ROOT / "build" / "deb").glob("vps-secrets-agent_*_all.deb"))
    assert (rootfs / "boot").is_dir(), "run the whole: scripts/test-qemu"
    assert debs, "run the whole: scripts/test-qemu"
    with guest(rootfs.resolve(), debs[-1], cloud) as machine:
        set_up(machine, cloud, f"vps-qemu-{debian}")
        yield machine
