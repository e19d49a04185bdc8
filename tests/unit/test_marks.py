"""What is marked stale and pending after any mixture of news in one reading, by an account of its own.

The account is written from the table "Staleness" of the design: a served name is marked only where Barbican
lists something else for it, or nothing; a listed name without a value is pending. It knows nothing of steps.
"""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from agent.config.reader import load
from agent.core.errors import Failure, Fault, Step
from agent.core.rotation import LEAVING_S, SETTLE_S, Entry, Moment, Reading, Unread
from agent.core.secret import SecretMetadata
from agent.serve.host import clock
from agent.serve.state import State
from agent.serve.store.store import Store
from agent.serve.sync.publisher import Publisher
from common.names import SecretName, Version

NAMES = tuple(SecretName(name) for name in "ABC")
AWAY = Failure(Step.BARBICAN, Fault.TRANSIENT, "to read", "wait")
EXAMPLE = load(Path("packaging/agent.toml"))

ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["rotate", "remove", "break", "heal", "fail", "again"]),
        st.sampled_from(NAMES),
    ),
    max_size=3,
)
"""What happens between two readings, which are a minute and a half apart: what can settle has settled."""


class Vps:
    """A container, what of it can't be read, and the agent's real publisher and store over it."""

    def __init__(self) -> None:
        self.state = State(EXAMPLE, (), Store(), clock.boot())
        self.publisher = Publisher(self.state)
        self.listed: dict[SecretName, Version] = {}
        self.unread: dict[Version, Unread] = {}
        self.tried: set[Version] = set()
        self.waits = False
        self.count = 0
        self.boot = 1000.0

    def act(self, action: str, name: SecretName) -> None:
        """Change the container or what can be read of it."""
        version = self.listed.get(name)
        if action == "rotate":
            self.count += 1
            self.listed[name] = Version(f"00000000-0000-4000-8000-{self.count:012}")
        elif action == "remove":
            self.listed.pop(name, None)
        elif action == "break" and version is not None:
            self.unread[version] = Unread.FAILED
        elif action == "heal":
            self.unread.clear()
        elif action == "fail":
            self.publisher.failed(AWAY)

    def read(self) -> None:
        """Make one reading and publish what it leads to."""
        self.boot += SETTLE_S + LEAVING_S
        held = self.state.store.held()
        known = {facts.version for facts in held.values()}
        new = {v: n for n, v in self.listed.items() if v not in known}
        read = {
            v: SecretMetadata(n, v, 1, "text/plain", 1.0, None)
            for v, n in new.items()
            if v not in self.unread
        }
        unread = {v: self.unread[v] for v in new if v in self.unread}
        self.waits = bool(held) and not unread.keys() <= self.tried  # it may be half of a rotation
        self.tried = set(unread)
        reading = Reading(tuple(Entry(n, v) for n, v in self.listed.items()), read, unread)
        self.publisher.publish(reading, dict.fromkeys(read, b"x"), Moment(self.boot, self.boot))

    def check(self) -> None:
        """Compare what is served and marked with the account, unless a new version is waited for."""
        if self.waits:
            return
        snapshot = self.state.store.snapshot
        assert snapshot is not None
        served = snapshot.versions()
        readable = {n: v for n, v in self.listed.items() if v not in self.unread or served.get(n) == v}
        assert {n: v for n, v in served.items() if n in readable} == readable
        assert snapshot.remarks.kept == {n for n, v in served.items() if self.listed.get(n) != v}
        assert snapshot.remarks.pending == self.listed.keys() - served.keys()


@given(st.lists(ACTIONS, min_size=1, max_size=8))
def test_marks_say_what_barbican_lists(turns: list[list[tuple[str, SecretName]]]) -> None:
    """Whatever happens between two readings."""
    vps = Vps()
    for actions in turns:
        for action, name in actions:
            vps.act(action, name)
        vps.read()
        vps.check()
    vps.state.store.close()


def test_a_fresh_value_and_a_name_that_goes_in_one_reading() -> None:
    """The value that came is not stale because another name went."""
    vps = Vps()
    for name in NAMES:
        vps.act("rotate", name)
    vps.read()
    vps.act("rotate", NAMES[0])
    vps.act("break", NAMES[0])
    vps.read()
    vps.act("remove", NAMES[1])
    vps.read()
    assert vps.state.store.snapshot is not None
    assert NAMES[0] in vps.state.store.snapshot.remarks.kept
    vps.act("heal", NAMES[0])
    vps.read()
    vps.check()
    assert NAMES[1] not in vps.state.store.snapshot.current
    assert vps.state.store.snapshot.remarks.kept == frozenset()
    vps.state.store.close()
