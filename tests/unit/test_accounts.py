"""Users and groups: what exists, what does not, and what nobody can tell."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agent.config.reader import load
from agent.core.access import NoId
from agent.serve.host import accounts, clock, name_service
from agent.serve.host.accounts import GROUP, USER, Account
from agent.serve.state import State
from agent.serve.store.store import Store
from agent.serve.sync import account_finder, freshness
from agent.serve.sync.account_finder import AccountFinder

if TYPE_CHECKING:
    from agent.config.model import Config

GHOST = Account(USER, "vsa-ghost")
ROOT = Account(USER, "root")


def _nobody_can_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the services not be known: to read a directory is an error."""
    monkeypatch.setattr(name_service, "_SERVICES", Path("/etc"))


def _config(tmp_path: Path) -> Config:
    text = Path("packaging/agent.toml").read_text()
    (tmp_path / "agent.toml").write_text(f'{text}\n[[grant]]\nuser = "{GHOST.name}"\nsecrets = ["X*"]\n')
    return load(tmp_path / "agent.toml")


def test_users_and_groups_by_name_and_by_id() -> None:
    """Every Debian has these; nobody has that name, and an id that is no id is nobody's."""
    assert name_service.user("root") == name_service.user(0) == ("root", 0, 0)
    assert name_service.group("games") == name_service.group(60) == ("games", 60)
    for nobody in ("vsa-ghost", "root\0", -1, 2**32, 2**32 - 1):
        assert name_service.user(nobody) is None
        assert name_service.group(nobody) is None


def test_an_entry_of_any_length_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A group's members may take more room than was offered first."""
    del tmp_path
    monkeypatch.setattr(name_service, "_FIRST_BYTES", 1)
    assert name_service.group("games") == ("games", 60)
    monkeypatch.setattr(name_service, "_MOST_BYTES", 1)
    with pytest.raises(OSError, match="out of range"):
        name_service.group("games")


def test_what_nobody_can_tell_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """An id stays, and so does that none is known; what is found is found all the same."""
    found = accounts.look_up({GHOST, ROOT}, {})
    assert found == ({GHOST: NoId.GONE, ROOT: 0}, frozenset(), "", {})
    _nobody_can_tell(monkeypatch)
    found = accounts.look_up({GHOST, ROOT, Account(GROUP, "vsa-ghost")}, {GHOST: 64321})
    assert found.ids == {GHOST: 64321, ROOT: 0, Account(GROUP, "vsa-ghost"): NoId.UNKNOWN}
    assert found.unsure == {GHOST, Account(GROUP, "vsa-ghost")}
    assert found.why == "Is a directory"


def test_who_has_the_id_now_is_found_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody can tell, the new id counts all the same."""
    group = Account(GROUP, "vsa-ghost")
    assert accounts.look_up({GHOST, group}, {GHOST: 1, group: 60}).heirs == {GHOST: "daemon", group: "games"}
    _nobody_can_tell(monkeypatch)
    found = accounts.look_up({ROOT}, {ROOT: 64321})
    assert (found.ids, found.heirs) == ({ROOT: 0}, {})


async def test_it_is_looked_again_where_nobody_could_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a cycle, and without a caller that is refused."""
    config = _config(tmp_path)
    state = State(config, accounts.grants_of(config.grants, {}), Store(), clock.boot())
    told = asyncio.Event()
    monkeypatch.setattr(account_finder, "AGAIN_S", 0.05)
    finder = AccountFinder(state, told.set)
    with pytest.MonkeyPatch.context() as meanwhile:
        _nobody_can_tell(meanwhile)
        assert await finder.answered(finder.configured())
        assert "can't tell about group vps-secrets-admin, " in str(freshness.unsure(state))
        assert str(GHOST) in state.look_ups.unknown
        assert GHOST in finder.ids
        told.clear()
    await asyncio.wait_for(told.wait(), 20)
    assert freshness.unsure(state) is None
    assert state.grants[-1].uid is NoId.GONE
    finder.end()
    assert not await finder.answered(finder.find()), "nobody waits for one once the agent ends"
