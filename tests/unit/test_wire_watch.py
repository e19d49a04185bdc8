"""agent/core/wire_watch.py: a watch and its reply arrive as they were, and whatever is not one is refused."""

from __future__ import annotations

import hashlib
import re
import secrets
import struct
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core import schedule, wire, wire_watch
from agent.core.errors import Failure, Fault, Step, WireError
from agent.core.wire_watch import SIGHT, WATCH, Watch, WatchResult, is_seen
from agent.serve.sync.beacon_watch import LIFETIME_S

if TYPE_CHECKING:
    from collections.abc import Callable

NONCE = "0" * 32
CANARY = secrets.token_hex(16)
lines = st.text(max_size=60).filter(str.isprintable)
tags = st.from_regex(r'etag:"[!#-~]{0,200}"', fullmatch=True)
digests = st.binary(max_size=9).map(lambda body: "sha256:" + hashlib.sha256(body).hexdigest())
seens = tags | digests
watches = st.builds(
    Watch,
    st.just(NONCE),
    st.none() | seens,
    st.floats(0.1, 3600),
    st.floats(0, 4000),
    st.binary(max_size=300),
)
failures = st.builds(
    Failure,
    st.sampled_from(Step),
    st.sampled_from(Fault),
    lines,
    lines,
    st.none() | st.integers(100, 599),
    st.none() | st.floats(min_value=0, max_value=1e6),
)
counts = st.integers(0, 1_000_000)
sights = st.builds(WatchResult, st.just(NONCE), seens, st.none(), counts, counts) | st.builds(
    WatchResult, st.just(NONCE), st.none(), failures, counts, counts
)


def watch() -> Watch:
    """Return a request with a canary as its token."""
    return Watch(NONCE, 'etag:"a"', 30.0, 3600.0, CANARY.encode())


@given(watches)
def test_a_watch_arrives_as_it_was(sent: Watch) -> None:
    """What serve asks is what fetch reads."""
    encoded = wire_watch.encode_watch(sent)
    assert wire_watch.decode_watch(encoded) == sent
    assert wire_watch.bounds_of(encoded[: wire.PREFIX_BYTES]) is WATCH
    assert wire.remaining(encoded[: wire.PREFIX_BYTES], WATCH) == len(encoded) - wire.PREFIX_BYTES


@given(sights)
def test_a_sight_arrives_as_it_was(sent: WatchResult) -> None:
    """A sight or a failure, with its counts."""
    assert wire_watch.decode_sight(wire_watch.encode_sight(sent), watch()) == sent


def test_a_request_for_a_reading_is_none_for_a_watch() -> None:
    """Nor the other way round: the kinds are told apart by their first bytes."""
    reading = wire.encode_request(wire.Request(NONCE, frozenset(), reads_doubles=True, timeout=1.0))
    assert wire_watch.bounds_of(reading) is wire.REQUEST
    assert wire_watch.bounds_of(b"") is wire.REQUEST
    with pytest.raises(WireError):
        wire_watch.decode_watch(reading)
    with pytest.raises(WireError):
        wire.decode_request(wire_watch.encode_watch(watch()))


@pytest.mark.parametrize("make", [wire_watch.encode_watch, None])
def test_every_truncation_and_every_flipped_bit_is_refused(make: Callable[[Watch], bytes] | None) -> None:
    """Cut anywhere, followed by anything, any bit wrong."""
    asked = watch()
    sight = WatchResult(NONCE, 'etag:"b"', None, 3, 0)
    encoded = make(asked) if make else wire_watch.encode_sight(sight)

    def decode(message: bytes) -> object:
        return wire_watch.decode_watch(message) if make else wire_watch.decode_sight(message, asked)

    assert decode(encoded)
    broken = [encoded[:length] for length in range(len(encoded))] + [encoded + b"x"]
    for at in range(len(encoded) * 8):
        flipped = bytearray(encoded)
        flipped[at // 8] ^= 1 << at % 8
        broken.append(bytes(flipped))
    for message in broken:
        with pytest.raises(WireError) as caught:
            decode(message)
        assert CANARY not in str(caught.value)


def forged(bounds: wire.Bounds, good: dict[str, object], **changes: object) -> bytes:
    """Return a well-framed message with some members changed; ... takes one away."""
    header = {key: value for key, value in {**good, **changes}.items() if value is not ...}
    return wire.frame(bounds, header, ())


GOOD_WATCH: dict[str, object] = {"nonce": NONCE, "seen": None, "interval": 30.0, "lifetime": 0}
GOOD_SIGHT: dict[str, object] = {"nonce": NONCE, "seen": 'etag:"a"', "failure": None, "looks": 1, "logins": 0}
BAD_SEEN: list[object] = [
    *(1, "", "etag:", 'etag:"', 'etag:a"', 'etag:"a"b"', 'etag:"a\n"', 'etag:"é"', 'W/"a"', '"a"', []),
    *(f'etag:"{"x" * 201}"', "sha256:", "sha256:" + "0" * 63, "sha256:" + "G" * 64, 'etag:"a" '),
]


@pytest.mark.parametrize(
    "changes",
    [
        *({"seen": seen} for seen in BAD_SEEN),
        *({"interval": bad} for bad in (0, -1, True, None, "1", 1e9)),
        *({"lifetime": bad} for bad in (-1, True, None, "1", 4001)),
        *({"nonce": bad} for bad in (None, "", "g" * 32, "0" * 31)),
        *({key: ...} for key in GOOD_WATCH),
        {"url": "https://elsewhere"},
    ],
)
def test_a_forged_watch_is_refused(changes: dict[str, object]) -> None:
    """Every member is checked; there is no way to name a URL."""
    wire_watch.decode_watch(forged(WATCH, GOOD_WATCH))
    with pytest.raises(WireError):
        wire_watch.decode_watch(forged(WATCH, GOOD_WATCH, **changes))


@pytest.mark.parametrize(
    "changes",
    [
        *({"seen": seen} for seen in [*BAD_SEEN, None]),
        *({"looks": bad} for bad in (-1, True, None, 0.5, 1_000_001)),
        *({"logins": bad} for bad in (-1, True, None, 0.5, 1_000_001)),
        *({"nonce": bad} for bad in (None, "1" * 32)),
        *({key: ...} for key in GOOD_SIGHT),
        *({"failure": bad} for bad in ({}, "text", {"step": "beacon"})),
        {"payload": "x"},
    ],
)
def test_a_forged_sight_is_refused(changes: dict[str, object]) -> None:
    """A fetch process that was taken over can say what was seen, or why nothing was, and no more."""
    wire_watch.decode_sight(forged(SIGHT, GOOD_SIGHT), watch())
    with pytest.raises(WireError):
        wire_watch.decode_sight(forged(SIGHT, GOOD_SIGHT, **changes), watch())


def test_a_sight_is_small() -> None:
    """Bodies and long headers are refused by their prefix alone; a sight of both kinds is none."""
    with pytest.raises(WireError):
        wire.frame(SIGHT, GOOD_SIGHT, (b"x",))
    with pytest.raises(WireError):
        wire.frame(SIGHT, "x" * 20_000, ())
    with pytest.raises(WireError):
        wire.remaining(struct.pack(">4scII", b"VSA1", SIGHT.kind, 20_000, 0), SIGHT)
    failure = Failure(Step.BEACON, Fault.TRANSIENT, "x" * 500, "\N{SNOWMAN}" * 500)
    both = WatchResult(NONCE, 'etag:"a"', failure, 0, 0)
    with pytest.raises(WireError):
        wire_watch.encode_sight(both)
    wire_watch.decode_sight(wire_watch.encode_sight(replace(both, seen=None)), watch())


def test_a_token_is_in_no_repr() -> None:
    """Of the request, which carries it."""
    assert CANARY not in repr(watch())


def test_systemd_lets_a_watch_live() -> None:
    """RuntimeMaxSec= of the unit is longer than the longest watch with its last look."""
    unit = (Path(__file__).parents[2] / "systemd/vps-secrets-fetch@.service").read_text()
    minutes = re.search(r"(?m)^RuntimeMaxSec=(\d+)min$", unit)
    assert minutes is not None
    longest = schedule.look(LIFETIME_S, max)
    assert longest <= wire_watch.MAX_LIFETIME_S
    assert int(minutes[1]) * 60 > wire_watch.MAX_LIFETIME_S + wire_watch.LOOK_S


@given(st.text(max_size=20))
def test_validators(text: str) -> None:
    """Only the two forms, and only what may stand in a header."""
    if is_seen(text):
        assert text.isascii()
        assert text.isprintable()
