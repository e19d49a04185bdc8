"""What is served, and said of what is not, where the kernel gives no memory for what was read."""

from __future__ import annotations

from pathlib import Path

from agent.config.reader import load
from agent.core.rotation import LEAVING_S, SETTLE_S, Entry, Moment, Reading
from agent.core.secret import Seal, SecretMetadata
from agent.serve.host import clock
from agent.serve.state import State
from agent.serve.store.store import Store
from agent.serve.sync import freshness
from agent.serve.sync.publisher import Published, Publisher
from common.names import SecretName, Version
from tests.unit.test_store import no_descriptor

A, B = SecretName("A"), SecretName("B")
VERSIONS = {
    A: Version("00000000-0000-4000-8000-00000000000a"),
    B: Version("00000000-0000-4000-8000-00000000000b"),
}


def _reading(*names: SecretName) -> Reading:
    facts = {VERSIONS[n]: SecretMetadata(n, VERSIONS[n], 1, "text/plain", 1.0, None) for n in names}
    return Reading(tuple(Entry(n, VERSIONS[n]) for n in names), facts)


def _asked(seconds: float) -> Moment:
    return Moment(1000.0 + seconds, 1e9 + seconds)


def test_what_is_listed_and_could_not_be_held_is_pending() -> None:
    """It is neither served nor absent, until there is memory for it."""
    state = State(load(Path("packaging/agent.toml")), (), Store(), clock.boot())
    publisher = Publisher(state)
    with no_descriptor():
        assert publisher.publish(_reading(A), {VERSIONS[A]: b"x"}, _asked(0)).failure is not None
    assert freshness.pending(state) == {A}
    assert publisher.publish(_reading(A), {VERSIONS[A]: b"x"}, _asked(1)).changed == (A,)
    assert freshness.pending(state) == set()
    payloads = dict.fromkeys(VERSIONS.values(), b"x")
    with no_descriptor():
        assert publisher.publish(_reading(A, B), payloads, _asked(SETTLE_S)).failure is not None
    assert freshness.pending(state) == {B}
    assert state.store.held().keys() == {A}
    assert publisher.publish(_reading(A, B), payloads, _asked(2 * SETTLE_S)).changed == (B,)
    assert freshness.pending(state) == set()
    state.store.close()


def test_what_was_wiped_is_pending_and_is_read_at_once() -> None:
    """The file can't even be overwritten: here somebody has closed it."""
    state = State(load(Path("packaging/agent.toml")), (), Store(), clock.boot())
    publisher = Publisher(state)
    payload = {VERSIONS[B]: b"x"}
    publisher.publish(_reading(A), {VERSIONS[A]: b"x"}, _asked(0))
    assert state.store._memory is not None
    with no_descriptor():
        assert not publisher.publish(_reading(B), payload, _asked(1)).wiped
    state.store._memory.memory.close()
    with no_descriptor():
        assert publisher.publish(_reading(B), payload, _asked(1 + LEAVING_S)).wiped
    assert freshness.pending(state) == {B}
    assert publisher.publish(_reading(B), payload, _asked(2 + LEAVING_S)).changed == (B,)
    assert freshness.pending(state) == set()
    state.store.close()


def test_an_old_sealed_version_is_refused_and_what_is_held_stays() -> None:
    """Whoever looks at the status reads why."""
    state = State(load(Path("packaging/agent.toml")), (), Store(), clock.boot())
    publisher = Publisher(state)

    def read(seal: Seal, version: Version) -> Published:
        facts = SecretMetadata(A, version, 1, "text/plain", 1.0, None, seal)
        reading = Reading((Entry(A, version),), {version: facts})
        return publisher.publish(reading, {version: b"x"}, _asked(SETTLE_S * seal.sequence))

    assert read(Seal(8, 7), VERSIONS[A]).refused == ()
    (refused,) = read(Seal(6, 6), VERSIONS[B]).refused
    assert "A: the version 00000000-0000-4000-8000-00000000000b is older" in refused
    assert state.store.held()[A].version == VERSIONS[A]
    assert read(Seal(7, 1), VERSIONS[B]).changed == (A,)  # it may come again: a rollback
    assert state.store.held()[A].seal == Seal(7, 7)
    state.store.close()
