"""What one process leaves to the next: adopted whole, or refused whole."""

from __future__ import annotations

import fcntl
import itertools
import json
import math
import mmap
import os
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.secret import NO_REMARKS, Seal, SecretMetadata
from agent.serve.host.fdstore import PROBE, DescriptorStore, inherit
from agent.serve.store import index, memory_file
from agent.serve.store.handover import Handover
from agent.serve.store.memory_file import AdoptionError, MemoryFile, Moments
from agent.serve.store.store import Store
from common.names import SecretName, Version

OWNER = index.Owner("vps-1", "11111111-1111-4111-8111-111111111111", "boot")
A, B = SecretName("A"), SecretName("B")
V1, V2, V3 = (Version(f"{n}0000000-0000-4000-8000-000000000000") for n in (1, 2, 3))


def _facts(name: SecretName, version: Version, size: int) -> SecretMetadata:
    return SecretMetadata(name, version, size, "text/plain", 1000.0, None)


@pytest.fixture(autouse=True)
def _store_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/nonexistent/notify")


def _published() -> Store:
    store = Store(Handover(DescriptorStore(), OWNER))
    store.remember(Moments(confirmed=5.0, attempted=4.0))
    store.publish(
        {A: V1, B: V2},
        {V1: (_facts(A, V1, 5), b"first"), V2: (_facts(B, V2, 3), b"two")},
        previous_until=100.0,
        now=5.0,
    )
    store.publish({A: V3, B: V2}, {V3: (_facts(A, V3, 5), b"third")}, previous_until=100.0, now=6.0)
    store.keep_token_state(b"token")
    return store


def _descriptors(store: Store) -> list[tuple[str, int]]:
    """Return duplicates, as systemd would pass them."""
    files = [store._memory, store._token]
    return [(file.name, os.dup(file.memory.fd)) for file in files if file is not None]


def test_a_new_process_goes_on_where_the_former_one_died() -> None:
    """Values, versions, generation, previous versions, changes, moments and token are the same."""
    former = _published()
    store = Store(Handover(DescriptorStore(), OWNER))
    adopted = Handover(DescriptorStore(), OWNER).adopt(_descriptors(former))
    store.adopt(adopted)
    snapshot = store.snapshot
    assert snapshot is not None
    assert {name: secret.reveal() for name, secret in snapshot.current.items()} == {A: b"third", B: b"two"}
    assert snapshot.previous[A][0].reveal() == b"first"
    assert snapshot.previous[A][1] == 100.0
    assert former.snapshot is not None
    assert (snapshot.generation, store.changed) == (former.snapshot.generation, former.changed)
    assert former.changed[B] < former.changed[A] == snapshot.generation
    assert store.moments == Moments(5.0, None, 4.0)
    assert store.moments.confirmed == 5.0
    assert store.token_state() == b"token"
    assert adopted.refused == ()
    assert store.publish({A: V3}, {}, previous_until=0.0, now=7.0) == (B,)
    assert store.snapshot is not None
    assert store.snapshot.generation > snapshot.generation


def test_what_was_dropped_in_place_does_not_come_back() -> None:
    """The file that systemd has is the same memory: a new process finds the rest, whole."""
    former = _published()
    files = _descriptors(former)
    former.keep_only([A], 200.0)
    adopted = Handover(DescriptorStore(), OWNER).adopt(files)
    assert adopted.refused == ()
    store = Store(Handover(DescriptorStore(), OWNER))
    store.adopt(adopted)
    assert store.snapshot is not None
    assert {name: secret.reveal() for name, secret in store.snapshot.current.items()} == {A: b"third"}
    assert not store.snapshot.previous
    assert former.snapshot is not None
    assert (store.snapshot.generation, store.changed) == (former.snapshot.generation, former.changed)
    assert store.changed[A] < store.changed[B] == store.snapshot.generation
    assert store.moments == Moments(5.0, None, 4.0)


def test_what_was_wiped_does_not_come_back() -> None:
    """Nor does a file in which a process was killed while it dropped something."""
    former = _published()
    files = _descriptors(former)
    former.wipe()
    adopted = Handover(DescriptorStore(), OWNER).adopt(files)
    assert adopted.snapshot is None
    assert len(adopted.refused) == 1


@pytest.mark.parametrize(
    ("owner", "words"),
    [
        (replace(OWNER, vps_id="vps-2"), "another VPS"),
        (replace(OWNER, container="22222222-1111-4111-8111-111111111111"), "another container"),
        (replace(OWNER, boot_id="other"), "another boot"),
    ],
)
def test_what_belongs_to_another_is_refused_whole(owner: index.Owner, words: str) -> None:
    """The text says whose it is."""
    adopted = Handover(DescriptorStore(), owner).adopt(_descriptors(_published()))
    assert (adopted.snapshot, adopted.token) == (None, None)
    assert any(words in text for text in adopted.refused)


def test_any_damage_is_found() -> None:
    """One changed bit anywhere but in the moments makes the file useless: every bit is tried."""
    store = _published()
    file = store._memory
    assert file is not None
    moments = range(memory_file._MOMENTS_AT, memory_file._MOMENTS_AT + memory_file._MOMENTS.size)
    used = memory_file._HEAD.size + len(file.memory.index) + sum(map(len, file.memory.views)) + 24
    places = [place for place in range(used) if place not in moments]
    for place, bit in itertools.product(places, range(8)):
        file.memory._map[place] ^= 1 << bit
        with pytest.raises(AdoptionError):
            MemoryFile.adopt(os.dup(file.memory.fd))
        file.memory._map[place] ^= 1 << bit
    MemoryFile.adopt(os.dup(file.memory.fd)).close(wipe=False)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -1.0, 1e300])
@pytest.mark.parametrize("at", range(3))
def test_moments_that_can_not_be_are_found(at: int, wrong: float) -> None:
    """They change without the digest; with them no age could be told, or no reading would ever be due."""
    store = _published()
    assert store._memory is not None
    numbers: list[float | None] = [None] * len(Moments())
    numbers[at] = wrong
    store._memory.memory.remember(Moments(*numbers))
    adopted = Handover(DescriptorStore(), OWNER).adopt(_descriptors(store)[:1])
    assert adopted.snapshot is None
    assert "moments" in adopted.refused[0]


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_clocks_that_can_not_be_are_found(wrong: float) -> None:
    """All would be older by that much."""
    assert not Moments(ahead=wrong).are_possible(10.0)
    assert Moments(ahead=-1e9).are_possible(10.0)


@given(st.binary(max_size=200))
def test_an_index_that_is_nonsense_is_refused(nonsense: bytes) -> None:
    """A digest that fits proves nothing about the index."""
    with pytest.raises(AdoptionError):
        index.decode(OWNER, nonsense, [])


def test_an_older_format_is_refused_by_name() -> None:
    """So that a downgrade reads again instead of misreading."""
    with pytest.raises(AdoptionError, match="another version"):
        index.decode(OWNER, b'{"format": 0}', [])


def test_a_file_of_another_program_is_refused() -> None:
    """Neither a file on a disk nor another memory file is ours."""
    for name in ("snapshot-1", "token-1", "other"):
        reader, writer = os.pipe()
        os.close(writer)
        adopted = Handover(DescriptorStore(), OWNER).adopt([(name, reader)])
        assert len(adopted.refused) == 1
        assert adopted.snapshot is None
    fd = os.memfd_create("vps-secrets", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 8192)
    with pytest.raises(AdoptionError, match="its size could change"):
        MemoryFile.adopt(os.dup(fd))
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, memory_file._SEALS)
    with pytest.raises(AdoptionError, match="not a file of this agent"):
        MemoryFile.adopt(fd)


def test_what_only_asked_whether_anything_is_kept_is_dropped() -> None:
    """A process that was killed while it asked leaves it: no fault, and no descriptor."""
    reader, writer = os.pipe()
    os.close(reader)
    adopted = Handover(DescriptorStore(), OWNER).adopt([(PROBE, writer)])
    assert (adopted.snapshot, adopted.token, adopted.refused) == (None, None, ())
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(writer)


def test_the_size_of_a_file_can_not_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever else holds it could end the agent so (SIGBUS); the ordinary kind is adopted as the other."""
    for create in (memory_file._memfd_secret, _no_memfd_secret):
        monkeypatch.setattr(memory_file, "_memfd_secret", create)
        file = MemoryFile([b"value"])
        for size in (0, 2 * file.size):
            with pytest.raises(OSError, match=r"Invalid argument|not permitted"):
                os.ftruncate(file.fd, size)
        MemoryFile.adopt(os.dup(file.fd)).close(wipe=False)
        file.close()


def _no_memfd_secret() -> int:
    raise OSError


def test_the_newest_of_two_snapshots_wins() -> None:
    """A process that died between keeping the new one and dropping the old one left both."""
    older, newer = _published(), _published()
    for order in ((older, newer), (newer, older)):
        found = [pair for store in order for pair in _descriptors(store)]
        adopted = Handover(DescriptorStore(), OWNER).adopt(found[:1] + found[2:3])
        assert adopted.snapshot is not None
        expected = max(order, key=lambda store: index.decode(OWNER, *_index(store)).sequence)
        assert adopted.snapshot[1].sequence == index.decode(OWNER, *_index(expected)).sequence
        older, newer = _published(), _published()


def _index(store: Store) -> tuple[bytes, list[int]]:
    assert store._memory is not None
    return store._memory.memory.index, [len(view) for view in store._memory.memory.views]


def test_at_the_end_what_systemd_keeps_is_not_wiped() -> None:
    """The next process needs it; without a descriptor store it is wiped."""
    for works, left in ((True, b"two"), (False, b"\0\0\0")):
        descriptors = DescriptorStore()
        handover = Handover(descriptors, OWNER)
        store = Store(handover)
        store.publish({B: V2}, {V2: (_facts(B, V2, 3), b"two")}, previous_until=0.0, now=0.0)
        assert store._memory is not None
        duplicate, index = os.dup(store._memory.memory.fd), len(store._memory.memory.index)
        descriptors.works = works
        store.close()
        with mmap.mmap(duplicate, 0) as mapping:
            start = memory_file._HEAD.size + 8 + index
            assert mapping[start : start + 3] == left
        os.close(duplicate)


def test_nothing_is_inherited_without_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process's variables are not ours (sd_listen_fds(3))."""
    monkeypatch.setenv("LISTEN_PID", "1")
    monkeypatch.setenv("LISTEN_FDS", "3")
    assert inherit().sockets == {}
    assert "LISTEN_FDS" not in os.environ


def test_a_seal_is_kept_with_its_version() -> None:
    """So that after a restart, too, nothing older comes in its place."""
    facts = (replace(_facts(A, V1, 1), seal=Seal(7, 5, 60.0)), replace(_facts(B, V2, 1), seal=Seal(3)))
    made = index.Index(1, 1, {}, NO_REMARKS, facts, ())
    assert index.decode(OWNER, index.encode(OWNER, made), [1, 1]).facts == facts


def test_what_an_older_agent_left_is_taken() -> None:
    """It knew of no seals: an update is no cold start."""
    made = index.Index(1, 1, {}, NO_REMARKS, (_facts(A, V1, 1),), ())
    members = json.loads(index.encode(OWNER, made))
    for facts in members["facts"]:
        del facts["seal"]
    members["format"] = 1
    assert index.decode(OWNER, json.dumps(members).encode(), [1]) == made


@pytest.mark.parametrize("seal", [[1, 2, None], [1, 0], [1.5, 0, None], [1, 0, -1], 7, {}, [1, 0, "1h"]])
def test_a_damaged_seal_is_refused(seal: object) -> None:
    """Whole: a kept file is taken as it is or not at all."""
    members = json.loads(index.encode(OWNER, index.Index(1, 1, {}, NO_REMARKS, (_facts(A, V1, 1),), ())))
    members["facts"][0]["seal"] = seal
    with pytest.raises(AdoptionError, match="damaged"):
        index.decode(OWNER, json.dumps(members).encode(), [1])
