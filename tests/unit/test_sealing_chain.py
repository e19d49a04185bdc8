"""agent/identity/sealing_chain.py: each key says which one comes after it."""

from __future__ import annotations

from agent.identity.sealing_chain import LENGTH, Chain
from common import sealing, sealing_key


def test_each_key_follows_from_the_one_before() -> None:
    """All of them, from one seed alone; the last one says of none."""
    chain, again = Chain(b"s" * 32), Chain(b"s" * 32)
    assert chain.announced == again.announced
    assert len({one.key for one in chain.announced}) == LENGTH
    for number, one in enumerate(chain.announced):
        assert one.key == sealing.public_of(chain.private(number))
        assert chain.number_of(chain.line(number)) == number
        if number:
            assert one.succeeds(chain.announced[number - 1].fingerprint)
            assert not one.succeeds(chain.announced[number - 2].fingerprint)
    assert chain.announced[-1].next == b""
    assert Chain(b"t" * 32).number_of(chain.line(3)) is None


def test_fetch_s_line_announces_the_same() -> None:
    """What it has of a key is its private half, and what is said besides."""
    chain = Chain(b"s" * 32)
    for number in (0, 1, LENGTH - 1):
        held = sealing_key.parse(chain.line(number))
        assert held is not None
        assert (held.next, held.former) == (chain.announced[number].next, chain.announced[number].former)
