"""Grants by systemd unit: the cgroup of the process that connected, with a real cgroup and real processes."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agent.serve.host.peer import unit_in
from lab.testbed.fakes.fetch_server import World
from lab.testbed.running import Agent, ask, fake_configuration
from tests.conftest import EXPECTED_SKIPS

if TYPE_CHECKING:
    from collections.abc import Iterator

GRANT = '[[grant]]\nunit = "vsa-test.service"\nsecrets = ["*"]\n'


def _hierarchies() -> list[Path]:
    """Return where the version 2 hierarchy is mounted."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    return [Path(place) for _, place, kind, *_ in mounts if kind == "cgroup2"]


@pytest.fixture
def unit() -> Iterator[Path]:
    """A cgroup as systemd would make it for a unit."""
    for hierarchy in _hierarchies():
        cgroup = hierarchy / "vsa-test.service"
        with contextlib.suppress(OSError):
            cgroup.mkdir(exist_ok=True)
            yield cgroup
            cgroup.rmdir()
            return
    pytest.skip(EXPECTED_SKIPS[0])


def _ask_from(cgroup: Path | None, socket: Path) -> int:
    """Ask for a secret from a child in the cgroup; return the status."""
    pid = os.fork()
    if not pid:
        if cgroup is not None:
            (cgroup / "cgroup.procs").write_text(str(os.getpid()))
        os._exit(0 if ask(socket, "GET", "/v1/secrets/A").status == 200 else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_only_the_unit_may_read(unit: Path) -> None:
    """The same user in another unit, or in none, is refused; root too."""
    world = World()
    world.put("A", b"a")
    with Agent(lambda directory: fake_configuration(directory, world, GRANT)[1]) as agent:
        agent.start().until_ready()
        assert _ask_from(unit, agent.app) == 0
        assert _ask_from(None, agent.app) == 1
        served = [
            record for record in agent.audit() if record["outcome"] == "served" and record.get("grants")
        ]
        assert [record["unit"] for record in served] == ["vsa-test.service"]
        explain = agent.ask_control("/v1/explain?user=root&unit=vsa-test.service&name=A").json
        assert explain["allowed"] is True


@pytest.mark.parametrize(
    ("cgroups", "unit_name"),
    [
        ("0::/system.slice/recruitiq.service\n", "recruitiq.service"),
        ("0::/system.slice/recruitiq.service/worker\n", "recruitiq.service"),
        ("0::/system.slice/system-app.slice/app@1.service\n", "app@1.service"),
        (
            "0::/user.slice/user-1000.slice/user@1000.service/app.slice/recruitiq.service\n",
            "user@1000.service",
        ),
        ("9:name=systemd:/x.service\n0::/system.slice/_recruitiq.service\n", "recruitiq.service"),
        ("1:name=systemd:/system.slice/recruitiq.service\n", None),
        ("0::/\n", None),
        ("", None),
    ],
)
def test_the_unit_of_a_cgroup(cgroups: str, unit_name: str | None) -> None:
    """A user's own unit of the same name is not it."""
    assert unit_in(cgroups) == unit_name
