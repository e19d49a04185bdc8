"""agent/serve/sync/call_budget.py: the count goes on in the next process, and bounds what is put off."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING

import pytest

from agent.config.reader import load
from agent.core.budget import MAX_RETRY_S, MAX_S
from agent.core.secret import SecretMetadata
from agent.core.wire_fields import no_calls
from agent.serve.host import clock
from agent.serve.host.fdstore import DescriptorStore
from agent.serve.state import State
from agent.serve.store import index
from agent.serve.store.handover import Handover
from agent.serve.store.store import Store
from agent.serve.sync import call_budget
from agent.serve.sync.call_budget import CallBudget
from common.names import SecretName, Version

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CONTAINER = "11111111-1111-4111-8111-111111111111"
OWNER = index.Owner("vps-1", CONTAINER, "boot")
A, VERSION = SecretName("A"), Version("20000000-0000-4000-8000-000000000000")
CALLS = no_calls() | {"barbican": {"ok": 12, "refused": 2, "failed": 1}}


@pytest.fixture(autouse=True)
def _store_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/nonexistent/notify")


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., State]:
    """Return what makes a state with a store that is kept, and some configuration."""

    def made(extra: str = "", store: Store | None = None) -> State:
        path = tmp_path / "agent.toml"
        path.write_text(
            f'vps_id = "vps-1"\ncontainer = "{CONTAINER}"\n'
            f'[keystone]\nauth_url = "http://127.0.0.1/v3"\napplication_credential_id = "x"\n{extra}'
        )
        return State(load(path), (), store or Store(Handover(DescriptorStore(), OWNER)), clock.boot())

    return made


def publish(store: Store) -> None:
    """Give the store a memory file."""
    facts = SecretMetadata(A, VERSION, 1, "text/plain", 1.0, None)
    store.publish({A: VERSION}, {VERSION: (facts, b"x")}, previous_until=0.0, now=0.0)


def successor(store: Store) -> Store:
    """Return the store of the next process."""
    assert store._memory is not None
    found = [(store._memory.name, os.dup(store._memory.memory.fd))]
    after = Store(Handover(DescriptorStore(), OWNER))
    after.adopt(Handover(DescriptorStore(), OWNER).adopt(found))
    assert after.snapshot is not None
    return after


def test_the_next_process_counts_on(make: Callable[..., State]) -> None:
    """Counted before and after the file was made; metrics begin anew, the month does not."""
    state = make()
    first = CallBudget(state)
    first.note(CALLS)
    publish(state.store)
    first.note(CALLS)
    since = state.store.moments.counted_since
    after = make(store=successor(state.store))
    CallBudget(after).note(CALLS)
    assert call_budget.outlook(after).calls == pytest.approx(45, abs=0.1)
    assert after.store.moments.counted_since == pytest.approx(since, abs=1)
    assert after.health.calls["barbican", "refused"] == 2


@pytest.mark.parametrize("damage", [math.nan, -1.0, math.inf, 1e18])
@pytest.mark.parametrize("key", ["counted_since", "calls"])
def test_a_count_that_is_damaged_begins_anew(make: Callable[..., State], key: str, damage: float) -> None:
    """The moments are the part of the file that no digest covers."""
    state = make("[budget]\ncalls_per_month = 1000\n")
    publish(state.store)
    CallBudget(state).note(CALLS)
    state.store.remember(state.store.moments._replace(**{key: damage}))
    after = make("[budget]\ncalls_per_month = 1000\n", successor(state.store))
    every = CallBudget(after).pace().poll_interval
    assert 900 <= every <= MAX_S
    assert call_budget.outlook(after).calls >= 0


def test_a_count_is_of_the_month_it_was_made_in(make: Callable[..., State]) -> None:
    """Of one that began before it, as good as nothing is left."""
    state = make()
    CallBudget(state)
    now = clock.boot()
    state.store.remember(state.store.moments._replace(counted_since=max(0.0, now - 1), calls=500.0))
    assert call_budget.outlook(state).calls == pytest.approx(500, rel=0.01)


@pytest.mark.parametrize(
    ("budget", "poll", "cap", "words"),
    [
        ("", 900.0, 600.0, None),
        ("calls_per_month = 100000", 900.0, 600.0, None),
        ("calls_per_month = 31", MAX_S, MAX_RETRY_S, "from 15 min to 24 h: calls_per_month 31"),
    ],
)
def test_the_pace(
    make: Callable[..., State], budget: str, poll: float, cap: float, words: str | None
) -> None:
    """Stretched to a day at most, and the retries to an hour."""
    state = make(f"[budget]\n{budget}\n")
    book = CallBudget(state)
    book.note(no_calls() | {"barbican": {"ok": 2, "refused": 0, "failed": 40}})
    pace = book.pace()
    assert (pace.poll_interval, pace.backoff_cap) == (poll, cap)
    told = call_budget.why_stretched(state)
    assert told is None if words is None else words in str(told)
    assert call_budget.is_used_up(state) == (words is not None)


def test_the_journal_is_told_of_large_changes_only(
    make: Callable[..., State], caplog: pytest.LogCaptureFixture
) -> None:
    """Once when it begins, not with every poll."""
    caplog.set_level("INFO")
    state = make("[budget]\ncalls_per_month = 31\n")
    book = CallBudget(state)
    for _ in range(5):
        book.note(CALLS)
        book.pace()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    # at the end of a month it "is used up", at the begin of one it is not
    assert "calls_per_month 31" in caplog.records[0].getMessage()
    state.config = make().config
    book.pace()
    assert caplog.records[-1].getMessage() == "poll interval is stretched no more: 15 min"
