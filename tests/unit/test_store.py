"""agent/serve/{memory,store}.py: one copy, whole snapshots, nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import secrets
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import MemoryLockError
from agent.core.secret import Remarks, Seal, SecretMetadata
from agent.serve.host import clock
from agent.serve.store.memory_file import MemoryFile, Moments
from agent.serve.store.store import MAX_GONE, Store
from common.names import SecretName, Version

if TYPE_CHECKING:
    from collections.abc import Iterator

A, B = SecretName("A"), SecretName("B")


@pytest.fixture(autouse=True)
def _clock_that_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the beginning of time, so that generations count from 1."""
    monkeypatch.setattr(clock, "wall", lambda: 0.0)


def _read(name: SecretName, version: str, payload: bytes) -> dict[Version, tuple[SecretMetadata, bytes]]:
    facts = SecretMetadata(name, Version(version), len(payload), "application/octet-stream", 1.0, None)
    return {Version(version): (facts, payload)}


def _publish(
    store: Store, versions: dict[SecretName, str], *, now: float = 0.0, until: float = 10.0
) -> tuple[str, ...]:
    """Publish versions whose payload is their own name, so that a test sees what it reads."""
    wanted = {name: Version(version) for name, version in versions.items()}
    held = {facts.version for facts in store.held().values()}
    read = {
        k: v for n, ver in versions.items() if ver not in held for k, v in _read(n, ver, ver.encode()).items()
    }
    return store.publish(wanted, read, previous_until=until, now=now)


def _values(store: Store) -> dict[str, bytes]:
    assert store.snapshot is not None
    return {name: secret.reveal() for name, secret in store.snapshot.current.items()}


@pytest.mark.parametrize("sizes", [(), (0,), (1, 0, 5), (4096,), (4095, 2), (65536, 70000)])
def test_payloads_come_back_byte_for_byte(sizes: tuple[int, ...]) -> None:
    """Whatever their sizes, also none and empty ones."""
    payloads = [secrets.token_bytes(size) for size in sizes]
    file = MemoryFile(payloads)
    assert [bytes(view) == payload for view, payload in zip(file.views, payloads, strict=True)] == [
        True
    ] * len(sizes)
    file.close()
    file.close()


def test_a_closed_file_is_wiped_and_its_views_are_dead() -> None:
    """Nobody reads a payload after its file was given up."""
    file = MemoryFile([b"canary"])
    view = file.views[0]
    file.close()
    with pytest.raises(ValueError, match="released"):
        bytes(view)


def test_a_view_can_not_be_written() -> None:
    """What was checked can't change afterwards."""
    file = MemoryFile([b"canary"])
    with pytest.raises(TypeError):
        file.views[0][0] = 1
    file.close()


def _generation(store: Store) -> int:
    assert store.snapshot is not None
    return store.snapshot.generation


def test_each_snapshot_that_differs_has_a_generation_of_its_own() -> None:
    """The same versions again have the same one; a removal has another."""
    store = Store()
    assert _publish(store, {A: "a1", B: "b1"}) == ("A", "B")
    first = _generation(store)
    assert _publish(store, {A: "a1", B: "b1"}) == ()
    assert _generation(store) == first
    assert _publish(store, {A: "a2", B: "b1"}) == ("A",)
    second = _generation(store)
    assert _publish(store, {A: "a2"}) == ("B",)
    third = _generation(store)
    assert first < second < third
    assert store.changed == {"A": second, "B": third}
    assert _values(store) == {"A": b"a2"}


def test_an_empty_first_snapshot_counts() -> None:
    """A VPS without secrets is ready too."""
    store = Store()
    assert _publish(store, {}) == ()
    assert _generation(store) > 0


def test_previous_versions_live_for_their_grace() -> None:
    """They are readable until then, and wiped after it without a new generation."""
    store = Store()
    _publish(store, {A: "a1", B: "b1"})
    _publish(store, {A: "a2", B: "b1"}, now=0.0, until=10.0)
    assert store.snapshot is not None
    secret, until = store.snapshot.previous[A]
    assert (secret.reveal(), until) == (b"a1", 10.0)
    _publish(store, {A: "a2", B: "b2"}, now=5.0, until=15.0)
    third = _generation(store)
    assert {n: s.reveal() for n, (s, _) in store.snapshot.previous.items()} == {"A": b"a1", "B": b"b1"}
    store.expire_previous(10.0)
    assert list(store.snapshot.previous) == ["B"]
    assert store.snapshot.generation == third
    store.expire_previous(15.0)
    assert not store.snapshot.previous
    assert _values(store) == {"A": b"a2", "B": b"b2"}


def test_no_grace_no_previous_version() -> None:
    """A grace of 0 keeps nothing."""
    store = Store()
    _publish(store, {A: "a1"})
    _publish(store, {A: "a2"}, now=3.0, until=3.0)
    assert store.snapshot is not None
    assert not store.snapshot.previous


def test_a_replaced_secret_is_dead() -> None:
    """Whoever kept the former snapshot across a publication reads nothing from it."""
    store = Store()
    _publish(store, {A: "a1"})
    assert store.snapshot is not None
    old = store.snapshot.current[A]
    _publish(store, {A: "a2"})
    with pytest.raises(ValueError, match="released"):
        old.reveal()


def test_remarks_alone_make_no_new_generation() -> None:
    """Pending and kept names change the snapshot's remarks only."""
    store = Store()
    _publish(store, {A: "a1"})
    first = _generation(store)
    store.publish(
        {A: Version("a1")}, {}, previous_until=0, now=0, remarks=Remarks(frozenset({B}), frozenset({A}))
    )
    assert store.snapshot is not None
    assert store.snapshot.generation == first
    assert store.snapshot.remarks == Remarks(frozenset({B}), frozenset({A}))
    assert _values(store) == {"A": b"a1"}


async def test_a_publication_wakes_whoever_waits() -> None:
    """The event taken before is set by the next publication, and a new one is there."""
    store = Store()
    event = store.next_publication()
    _publish(store, {A: "a1"})
    await asyncio.wait_for(event.wait(), 1)
    assert not store.next_publication().is_set()


def test_names_that_went_are_remembered_within_a_bound() -> None:
    """Churn can't fill the memory."""
    store = Store()
    for index in range(MAX_GONE + 5):
        _publish(store, {SecretName(f"N{index}"): f"v{index}"}, until=0.0)
    assert len(store.changed) == MAX_GONE + 1
    assert "N0" not in store.changed


def test_token_state_is_kept_and_wiped() -> None:
    """It is replaced as a whole."""
    store = Store()
    assert store.token_state() == b""
    store.keep_token_state(b"one")
    store.keep_token_state(b"two")
    assert store.token_state() == b"two"
    assert store.memory_facts()["kind"] in {"memfd_secret", "memfd"}
    store.close()


@contextlib.contextmanager
def no_descriptor() -> Iterator[None]:
    """Have the kernel refuse every new descriptor, and so every new memory file."""
    lowest = os.dup(0)
    os.close(lowest)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_what_has_to_go_needs_no_new_memory() -> None:
    """A drop, and the end of a grace, also where the kernel gives no memory file; the rest is served on."""
    store = Store()
    _publish(store, {A: "a1", B: "b1"})
    _publish(store, {A: "a2", B: "b1"}, now=0.0, until=10.0)
    assert store.snapshot is not None
    taken, grace = store.snapshot.current[B], store.snapshot.previous[A][0]
    published = store.next_publication()
    with no_descriptor():
        store.expire_previous(10.0)
        assert (store.snapshot.generation, dict(store.snapshot.previous)) == (2, {})
        assert _values(store) == {"A": b"a2", "B": b"b1"}
        assert not published.is_set()
        assert _publish(store, {A: "a2"}, now=11.0) == ("B",)
        assert published.is_set()
        assert (store.snapshot.generation, store.changed) == (3, {A: 2, B: 3})
        assert _values(store) == {"A": b"a2"}
        assert _publish(store, {}, now=11.0) == ("A",)
    for secret in (taken, grace):
        with pytest.raises(ValueError, match="released"):
            secret.reveal()
    assert _publish(store, {A: "a3"}) == ("A",)
    assert store.snapshot.generation == 5


def test_what_is_new_has_to_wait_but_not_what_has_to_go() -> None:
    """A reading that brings a version and takes a name away, without memory: the second is done."""
    store = Store()
    _publish(store, {A: "a1", B: "b1"})
    with no_descriptor(), pytest.raises(MemoryLockError, match=r"Too many open files\); raise LimitNOFILE="):
        _publish(store, {A: "a2"})
    assert _values(store) == {"A": b"a1"}
    assert store.snapshot is not None
    assert store.snapshot.generation == 2
    assert _publish(store, {A: "a2"}) == ("A",)


def test_what_can_not_even_be_overwritten_is_wiped_whole() -> None:
    """Here somebody has closed the file: nothing is served, and the generation goes on from there."""
    store = Store()
    _publish(store, {A: "a1", B: "b1"})
    assert store._memory is not None
    store._memory.memory.close()
    with no_descriptor():
        assert _publish(store, {A: "a1"}) == ("A", "B")
    assert store.held() == {}
    _publish(store, {A: "a1"})
    assert store.snapshot is not None
    assert store.snapshot.generation == 3


@given(st.lists(st.tuples(st.binary(max_size=3000), st.booleans()), max_size=12), st.data())
def test_a_file_that_shrinks_in_place(payloads: list[tuple[bytes, bool]], data: st.DataObject) -> None:
    """What stays is the same byte for byte, for the next process too, and of the rest nothing is left."""
    index = data.draw(st.binary(max_size=200))
    made = [payload if keep else b"\xffGONE" + payload for payload, keep in payloads]
    file = MemoryFile(made, b"x" * (len(index) + 1), Moments(1.0, None, 2.0))
    stays = [at for at, (_, keep) in enumerate(payloads) if keep]
    file.keep_only(stays, index)
    expected = [payload for payload, keep in payloads if keep]
    assert [bytes(view) for view in file.views] == expected
    other = MemoryFile.adopt(os.dup(file.fd))
    assert [bytes(view) for view in other.views] == expected
    assert (other.index.rstrip(b" "), other.moments) == (index.rstrip(b" "), Moments(1.0, None, 2.0))
    assert b"\xffGONE" not in bytes(other._map)
    other.close()
    file.close()


def _sealed(name: SecretName, version: str, seal: Seal) -> dict[Version, tuple[SecretMetadata, bytes]]:
    ((key, (facts, payload)),) = _read(name, version, version.encode()).items()
    return {key: (replace(facts, seal=seal), payload)}


def test_no_former_version_means_none_at_once() -> None:
    """Not for a moment, whatever grace the configuration gives; other names keep theirs."""
    store = Store()
    _publish(store, {A: "1", B: "1b"})
    read = _sealed(A, "2", Seal(8, 8)) | _read(B, "2b", b"2b")
    store.publish({A: Version("2"), B: Version("2b")}, read, previous_until=10.0, now=1.0)
    assert store.snapshot is not None
    assert store.snapshot.previous.keys() == {B}


def test_a_version_says_how_long_the_one_before_it_is_served() -> None:
    """As its blueprint has it; the configuration's time is for the others."""
    store = Store()
    store.publish({A: Version("1")}, _sealed(A, "1", Seal(7)), previous_until=10.0, now=0.0)
    store.publish({A: Version("2")}, _sealed(A, "2", Seal(8, 7, 3600.0)), previous_until=10.0, now=1.0)
    assert store.snapshot is not None
    ((former, until),) = store.snapshot.previous.values()
    assert (former.reveal(), until) == (b"1", 3601.0)


def test_names_that_other_grants_cover_get_a_generation() -> None:
    """And whoever waits is woken; a name that is not there is none, and without one nothing changes."""
    store = Store()
    store.note_readable((A,))
    assert store.changed == {}, "nothing is held"
    _publish(store, {A: "1", B: "2"})
    before, waiting = store.snapshot, store.next_publication()
    assert before is not None
    store.note_readable((SecretName("GONE"),))
    store.note_readable(())
    assert (store.snapshot, waiting.is_set()) == (before, False)
    store.note_readable((B, SecretName("GONE")))
    assert store.snapshot is not None
    assert waiting.is_set()
    assert store.snapshot.generation > before.generation
    assert store.changed == {A: before.generation, B: store.snapshot.generation}
    assert _values(store) == {A: b"1", B: b"2"}
    store.close()
