"""What explain says of the way to the application's socket, beside what the kernel does with real callers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from agent.cli.let_in import let_in
from agent.core import acl
from agent.core.acl import Entry
from lab.testbed.fakes.fetch_server import World
from lab.testbed.running import Agent, Caller, fake_configuration
from tests.integration.unit import Unit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NO_ID = 0xFFFFFFFF
GRANTS = "".join(f'[[grant]]\nuser = "{user}"\nsecrets = ["*"]\n' for user in ("root", "daemon", "games"))
CALLERS = {"root": Caller(0, 0), "daemon": Caller(1, 1), "games": Caller(5, 60)}
"""Users of every Debian, with the groups that the system's databases give them (base-passwd)."""


class Way(NamedTuple):
    """Owner, group and mode of the directory and of the socket in it, and who gets in."""

    directory: tuple[int, int, int]
    socket: tuple[int, int, int]
    let_in: set[str]


OPEN = (0, 0, 0o755)
WAYS = {
    "anybody": Way(OPEN, (0, 0, 0o666), {"root", "daemon", "games"}),
    "a group": Way(OPEN, (0, 60, 0o660), {"root", "games"}),
    "an owner": Way(OPEN, (1, 60, 0o600), {"root", "daemon"}),
    "an owner who may not": Way(OPEN, (1, 1, 0o066), {"root", "games"}),
    "reading is not enough": Way(OPEN, (0, 60, 0o644), {"root"}),
    "a directory": Way((0, 60, 0o710), (0, 0, 0o666), {"root", "games"}),
    "a directory that may only be read": Way((0, 0, 0o754), (0, 0, 0o666), {"root"}),
}


def _configure(directory: Path) -> str:
    world = World()
    world.put("A", b"canary-value")
    return fake_configuration(directory, world, GRANTS)[1]


@pytest.fixture
def agent() -> Iterator[Agent]:
    """An agent that is ready, with grants for all callers."""
    with Agent(_configure) as made:
        made.start().until_ready()
        yield made


def _explain(agent: Agent, user: str, unit: str = "") -> Any:
    return agent.ask_control(f"/v1/explain?user={user}&name=A{unit and '&unit='}{unit}").json


def _told(explained: Any) -> list[str]:
    return [line for line in explained["lines"] if line.startswith("app.sock: ")]


@pytest.mark.parametrize("name", WAYS)
def test_explain_says_what_the_kernel_does(agent: Agent, name: str) -> None:
    """A line with what keeps the user out, where something does; the grants are the same for all."""
    way = WAYS[name]
    for path, (uid, gid, mode) in ((agent.directory, way.directory), (agent.app, way.socket)):
        os.chown(path, uid, gid)
        path.chmod(mode)
    for user, caller in CALLERS.items():
        explained = _explain(agent, user)
        connects = caller.ask(agent.app, "/v1/secrets/A") == (200, "")
        assert connects is (user in way.let_in)
        assert explained["allowed"] is connects
        assert len(_told(explained)) == (not connects)
        assert all("keeps user " + user + " out" in line for line in _told(explained))


def test_a_group_to_join_is_named_and_a_unit_may_have_it(agent: Agent) -> None:
    """With a unit nobody here knows the groups of its processes, so the grants decide."""
    os.chown(agent.app, 0, 60)
    agent.app.chmod(0o660)
    (line,) = _told(_explain(agent, "daemon"))
    assert "usermod -aG games daemon" in line
    assert "SupplementaryGroups=games" in line
    explained = _explain(agent, "daemon", "x.service")
    assert explained["allowed"] is True
    assert "unless x.service gives its processes other groups" in explained["lines"][-1]
    os.chown(agent.app, 0, 0)
    (line,) = _told(_explain(agent, "daemon"))
    assert "SocketGroup=vps-secrets-app" in line
    assert "usermod" not in line


_LISTS: dict[str, tuple[tuple[Entry, ...], set[str]]] = {
    "a user": ((Entry(acl.USER, 1, 6), Entry(acl.GROUP_OWNER, NO_ID, 0)), {"root", "daemon"}),
    "a group": ((Entry(acl.GROUP, 60, 6), Entry(acl.GROUP_OWNER, NO_ID, 0)), {"root", "games"}),
    "the socket's own group": ((Entry(acl.USER, 5, 0), Entry(acl.GROUP_OWNER, NO_ID, 6)), {"root", "daemon"}),
    "a user whose entry says no": ((Entry(acl.USER, 1, 4), Entry(acl.GROUP_OWNER, NO_ID, 6)), {"root"}),
    "a mask": (
        (Entry(acl.USER, 1, 6), Entry(acl.GROUP_OWNER, NO_ID, 6), Entry(acl.MASK, NO_ID, 4)),
        {"root"},
    ),
}


@pytest.mark.parametrize("name", _LISTS)
def test_explain_reads_an_access_control_list_as_the_kernel_does(agent: Agent, name: str) -> None:
    """Of users and groups, with its mask; ``vps-secrets setup --add`` sets one."""
    entries, let_in = _LISTS[name]
    os.chown(agent.app, 0, 1)
    agent.app.chmod(0o660)
    ends = (Entry(acl.OWNER, NO_ID, 6), Entry(acl.OTHER, NO_ID, 0))
    mask = () if any(one.tag == acl.MASK for one in entries) else (Entry(acl.MASK, NO_ID, 7),)
    os.setxattr(agent.app, acl.ATTRIBUTE, acl.encode((*ends, *entries, *mask)))
    for user, caller in CALLERS.items():
        explained = _explain(agent, user)
        assert (caller.ask(agent.app, "/v1/secrets/A") == (200, "")) is (user in let_in)
        assert explained["allowed"] is (user in let_in)
        assert len(_told(explained)) == (user not in let_in)


def test_another_application_is_let_in_beside_the_first(agent: Agent) -> None:
    """By an entry: group and mode stay, twice is once, and nobody else comes along."""
    os.chown(agent.app, 0, 60)
    agent.app.chmod(0o660)
    for _ in range(2):
        let_in(agent.app, {1}, set())
        assert {
            user for user, who in CALLERS.items() if who.ask(agent.app, "/v1/secrets/A")[0] == 200
        } == set(CALLERS)
    assert Caller(2, 2).ask(agent.app, "/v1/secrets/A")[0] != 200
    assert agent.app.stat().st_gid == 60


def test_a_socket_that_is_gone_is_told() -> None:
    """Removed by somebody, or never made by systemd."""
    with Unit(_configure) as unit:
        unit.start().until_ready()
        unit.app.unlink()
        explained = _explain(unit, "daemon")
        assert explained["allowed"] is False
        assert "is not there any more: systemctl restart vps-secrets-app.socket" in _told(explained)[0]
    with Unit(_configure) as unit:
        unit.lose("app")
        unit.start(wait=False)
        unit.until(lambda: unit.status()["state"] == "ready")
        explained = _explain(unit, "daemon")
        assert explained["allowed"] is False
        assert "systemd could not make it" in _told(explained)[0]
