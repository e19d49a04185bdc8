"""agent/core/order.py: which sealed version may follow which, and when the former one ends."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.order import former_until, ordered
from agent.core.rotation import Entry, Reading, Unread
from agent.core.secret import Seal, SecretMetadata
from common.names import SecretName, Version

A, B = SecretName("A"), SecretName("B")
NOW, UNTIL = 1000.0, 1600.0

seals = st.none() | st.integers(1, 9).flatmap(
    lambda sequence: st.integers(0, sequence).map(lambda floor: Seal(sequence, floor))
)


def facts(number: int, seal: Seal | None, name: SecretName = A) -> SecretMetadata:
    """Return one version."""
    version = Version(f"{number:08}-0000-4000-8000-000000000000")
    return SecretMetadata(name, version, 1, "application/octet-stream", float(number), None, seal)


def reading(*read: SecretMetadata) -> Reading:
    """Return a reading of these versions."""
    entries = tuple(Entry(one.name, one.version) for one in read)
    return Reading(entries, {one.version: one for one in read})


def test_an_old_version_does_not_come_in_place_of_a_newer_one() -> None:
    """It counts as not read, so what is held stays; other names go on."""
    old, other = facts(2, Seal(4)), facts(3, Seal(1), B)
    result = ordered({A: facts(1, Seal(7, 5))}, reading(old, other))
    assert result.refused == {old.version: A}
    assert result.reading.unread == {old.version: Unread.FAILED}
    assert result.reading.read.keys() == {other.version}


def test_a_rollback_lists_a_version_that_is_not_over() -> None:
    """And it takes the floor over, so one can't go down step by step."""
    first, third = facts(1, Seal(5, 4)), facts(3, Seal(7, 5))
    result = ordered({A: third}, reading(first))
    assert not result.refused
    (back,) = result.reading.read.values()
    assert back.seal == Seal(5, 5)
    assert ordered({A: back}, reading(facts(0, Seal(4, 3)))).refused
    assert not ordered({A: back}, reading(facts(4, Seal(9, 4)))).refused


def test_after_a_reboot_the_newest_ends_the_others() -> None:
    """Both are listed, as while a rotation is under way, and nothing is held yet."""
    former, new = facts(1, Seal(5, 5)), facts(2, Seal(6, 6))
    assert ordered({}, reading(former, new)).refused == {former.version: A}
    assert not ordered({}, reading(former)).refused


def test_what_has_no_seal_has_no_place_in_the_order() -> None:
    """Whether it is taken, fetch.require_sealed says."""
    assert not ordered({A: facts(1, Seal(7, 7))}, reading(facts(2, None))).refused
    assert not ordered({A: facts(1, None)}, reading(facts(2, Seal(1)))).refused


@given(seals, st.lists(seals, max_size=4))
def test_no_floor_is_ever_lowered(held: Seal | None, listed: list[Seal | None]) -> None:
    """Whatever is read: what is left is at or above every floor that was seen, and has the highest."""
    before = {A: facts(0, held)}
    read = [facts(number, seal) for number, seal in enumerate(listed, 1)]
    result = ordered(before, reading(*read))
    floor = max([seal.floor for seal in (held, *listed) if seal], default=0)
    for one in result.reading.read.values():
        assert one.seal is None or (one.seal.floor == floor <= one.seal.sequence)
    assert result.refused.keys() | result.reading.read.keys() == {one.version for one in read}
    over = [one for one in read if one.version in result.refused]
    assert all(one.seal is not None and one.seal.sequence < floor for one in over)


@pytest.mark.parametrize(
    ("former", "new", "until"),
    [
        (None, None, UNTIL),
        (None, Seal(5), UNTIL),
        (None, Seal(5, 4), UNTIL),  # one without a seal is before all others; it ends by the next line only
        (None, Seal(5, 5), NOW),
        (Seal(4), Seal(5, 4), UNTIL),
        (Seal(4), Seal(5, 5), NOW),
        (Seal(3), Seal(5, 4), NOW),
        (Seal(7), Seal(5, 5), UNTIL),  # after a rollback the newer one is the former
        (Seal(4), Seal(5, 4, 3600.0), NOW + 3600),
        (Seal(4), Seal(5, 4, 0.0), NOW),
        (Seal(4), Seal(5, 5, 3600.0), NOW),
        (Seal(4), None, UNTIL),
    ],
)
def test_the_new_one_says_how_long_the_former_is_served(
    former: Seal | None, new: Seal | None, until: float
) -> None:
    """Not at all where it was compromised; else by the blueprint, else by the configuration."""
    assert former_until(facts(1, former), facts(2, new), UNTIL, NOW) == until


def test_a_reading_without_seals_is_left_as_it_is() -> None:
    """As every VPS without a deployer has it."""
    read = reading(facts(1, None), facts(2, None, B))
    assert ordered({A: facts(0, None)}, read).reading == replace(read)
