"""agent/core/wire.py: messages survive the way there, and whatever is not one is refused whole."""

from __future__ import annotations

import hashlib
import json
import math
import secrets
import struct
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core import wire
from agent.core.errors import Failure, Fault, Step, WireError
from agent.core.rotation import Entry, Reading, Unread
from agent.core.secret import SecretMetadata
from common.names import MAX_K, SecretName, Version

if TYPE_CHECKING:
    from collections.abc import Callable

VPS = "vps-prod-001"
CONTAINER = "11111111-2222-4333-8444-555555555555"
CANARY = secrets.token_hex(16)
CALLS = {"keystone": {"ok": 1, "refused": 0, "failed": 0}, "barbican": {"ok": 14, "refused": 1, "failed": 1}}
TIMINGS = {"start": 0.25, "login": 0.0, "list": 1e-3, "payloads": 2.5}

versions = st.uuids().map(lambda value: Version(str(value)))
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,30}", fullmatch=True).map(SecretName)
digests = st.binary(min_size=32, max_size=32).map(bytes.hex)
ks = st.just(0) | st.integers(1, MAX_K)
lines = st.text(max_size=60).filter(str.isprintable)
times = st.floats(min_value=0, max_value=4e9)


def version(number: int) -> Version:
    """Return a version that is easy to tell apart."""
    return Version(str(uuid.UUID(int=number)))


def request(known: frozenset[Version] = frozenset()) -> wire.Request:
    """Return a request with a nonce of its own."""
    return wire.Request(secrets.token_hex(16), known, reads_doubles=True, timeout=30.0, token_state=b"state")


def reply_to(asked: wire.Request) -> wire.Reply:
    """Return a reply with one of everything."""
    name, payload = SecretName("JWT_SECRET"), CANARY.encode()
    facts = SecretMetadata(name, version(1), len(payload), "application/octet-stream", 1.5, None)
    entries = (Entry(name, version(1)), Entry(SecretName("LATER"), version(2)))
    reading = Reading(entries, {version(1): facts}, {version(2): Unread.ABSENT})
    return wire.Reply(
        nonce=asked.nonce,
        vps_id=VPS,
        container=CONTAINER,
        reading=reading,
        failure=None,
        payloads={version(1): payload},
        rejected=("vps-prod-002/JWT_SECRET",),
        notices=("vps-prod-001/LATER was not read: its payload is not written yet",),
        calls=CALLS,
        timings=TIMINGS,
        token_state=CANARY.encode(),
        credential_expires=1.5,
        acknowledged=("0" * 64, "f" * 64),
        acknowledge_problem="a former acknowledgement is left in the container: HTTP 500",
    )


@st.composite
def readings(draw: st.DrawFn) -> tuple[Reading, dict[Version, bytes], frozenset[Version]]:
    """A consistent reading with its payloads, and what was known before."""
    listed = draw(st.dictionaries(versions, names, max_size=8))
    fate = {item: draw(st.sampled_from(["read", "unread", "known"])) for item in listed}
    payloads = {item: draw(st.binary(max_size=200)) for item in listed if fate[item] == "read"}
    read = {
        item: SecretMetadata(
            listed[item], item, len(payload), draw(lines), draw(times), draw(st.none() | times)
        )
        for item, payload in payloads.items()
    }
    unread = {item: draw(st.sampled_from(Unread)) for item in listed if fate[item] == "unread"}
    known = frozenset(item for item in listed if fate[item] == "known")
    entries = tuple(Entry(name, item, draw(ks)) for item, name in listed.items())
    return Reading(entries, read, unread), payloads, known


failures = st.builds(
    Failure,
    st.sampled_from(Step),
    st.sampled_from(Fault),
    lines,
    lines,
    st.none() | st.integers(100, 599),
    st.none() | st.floats(min_value=0, max_value=1e6),
)


@given(
    st.builds(
        wire.Request,
        st.just("0" * 32),
        st.frozensets(versions),
        st.booleans(),
        st.floats(0.1, 3600),
        st.binary(max_size=500),
        st.none() | digests,
    )
)
def test_a_request_arrives_as_it_was(sent: wire.Request) -> None:
    """What serve asks is what fetch reads."""
    encoded = wire.encode_request(sent)
    assert wire.decode_request(encoded) == sent
    assert wire.remaining(encoded[: wire.PREFIX_BYTES], wire.REQUEST) == len(encoded) - wire.PREFIX_BYTES


@given(readings(), st.lists(lines, max_size=5), st.binary(max_size=300), st.none() | times)
def test_a_reading_arrives_as_it_was(
    made: tuple[Reading, dict[Version, bytes], frozenset[Version]],
    rejected: list[str],
    token_state: bytes,
    expires: float | None,
) -> None:
    """Entries, facts, payloads and token state survive, whatever bytes they hold."""
    reading, payloads, known = made
    asked = request(known)
    sent = wire.Reply(
        asked.nonce,
        VPS,
        CONTAINER,
        reading,
        None,
        payloads,
        tuple(rejected),
        tuple(reversed(rejected)),
        CALLS,
        TIMINGS,
        token_state,
        credential_expires=expires,
    )
    encoded = wire.encode_reply(sent, known)
    assert wire.decode_reply(encoded, asked, VPS, CONTAINER) == sent
    assert wire.remaining(encoded[: wire.PREFIX_BYTES]) == len(encoded) - wire.PREFIX_BYTES


@given(failures)
def test_a_failure_arrives_as_it_was(failure: Failure) -> None:
    """A failure is a reply like any other; only that of the configuration can't tell whose it is."""
    asked = request()
    nameless = failure.step is Step.CONFIGURATION
    vps_id, container = ("", "") if nameless else (VPS, CONTAINER)
    sent = wire.Reply(asked.nonce, vps_id, container, None, failure, calls=CALLS, timings=TIMINGS)
    received = wire.decode_reply(wire.encode_reply(sent), asked, VPS, CONTAINER)
    assert received == replace(sent, vps_id=VPS, container=CONTAINER)


def unsendable() -> dict[str, wire.Reply]:
    """Return replies that serve would refuse, each for one reason."""
    good = reply_to(request())
    reading, a_name = good.reading, SecretName("JWT_SECRET")
    assert reading is not None
    many = tuple(Entry(a_name, version(number)) for number in range(10, 211))
    facts = reading.read[version(1)]
    failure = Failure(Step.TLS, Fault.TRANSIENT, "x", "y")
    return {
        "too many entries": replace(good, reading=Reading(many), payloads={}),
        "not listed": replace(good, reading=Reading((), reading.read)),
        "another size": replace(good, payloads={version(1): b"short"}),
        "no payload": replace(good, payloads={}),
        "too large": replace(
            good,
            reading=Reading(reading.entries, {version(1): replace(facts, size=65537)}),
            payloads={version(1): b"x" * 65537},
        ),
        "content type": replace(
            good, reading=Reading(reading.entries, {version(1): replace(facts, content_type="a\nb")})
        ),
        "created": replace(
            good, reading=Reading(reading.entries, {version(1): replace(facts, created=math.nan)})
        ),
        "read and unread": replace(good, reading=replace(reading, unread={version(1): Unread.FAILED})),
        "reading and failure": replace(good, failure=failure),
        "neither": replace(good, reading=None, payloads={}),
        "a text of two lines": replace(
            good, reading=None, payloads={}, failure=replace(failure, advice="a\nb")
        ),
        "too many notices": replace(good, notices=("x",) * 201),
        "too long a token": replace(good, token_state=b"x" * 65537),
        "too many payloads": replace(
            good,
            reading=Reading(
                tuple(Entry(SecretName(f"S{number}"), version(number)) for number in range(65)),
                {
                    version(number): replace(
                        facts, name=SecretName(f"S{number}"), version=version(number), size=65536
                    )
                    for number in range(65)
                },
            ),
            payloads={version(number): b"x" * 65536 for number in range(65)},
        ),
        "no nonce": replace(good, nonce="0"),
        "a negative count": replace(good, calls={**CALLS, "barbican": {"ok": -1, "refused": 0, "failed": 0}}),
    }


@pytest.mark.parametrize("what", unsendable())
def test_what_serve_would_refuse_is_not_sent(what: str) -> None:
    """The rules are the same on both sides, so that fetch can say what is wrong instead."""
    with pytest.raises(WireError) as caught:
        wire.encode_reply(unsendable()[what])
    assert caught.value.__context__ is None
    assert (CANARY in str(caught.value)) is False


def test_a_version_that_was_known_is_not_sent() -> None:
    """Which needs what the request said."""
    reply = reply_to(request())
    wire.encode_reply(reply)
    for known in (version(1), version(2)):
        with pytest.raises(WireError, match="known"):
            wire.encode_reply(reply, frozenset({known}))


def test_a_request_that_would_be_refused_is_not_sent() -> None:
    """Likewise."""
    good = request()
    for bad in (
        replace(good, nonce="x"),
        replace(good, timeout=0.0),
        replace(good, known=frozenset(version(number) for number in range(801))),
        replace(good, token_state=b"x" * 65537),
        replace(good, serves="0" * 63),
        replace(good, serves="A" * 64),
    ):
        with pytest.raises(WireError):
            wire.encode_request(bad)


def test_a_version_under_two_names_is_read_for_its_own() -> None:
    """An entry that names another secret's version stays listed."""
    good = reply_to(asked := request())
    assert good.reading is not None
    both = (*good.reading.entries, Entry(SecretName("OTHER"), version(1)))
    sent = replace(good, reading=replace(good.reading, entries=both))
    assert wire.decode_reply(wire.encode_reply(sent), asked, VPS, CONTAINER) == sent


def test_every_truncation_is_refused() -> None:
    """A reply that was cut anywhere, or that something follows, is not one."""
    asked = request()
    encoded = wire.encode_reply(reply_to(asked))
    for length in range(len(encoded)):
        with pytest.raises(WireError):
            wire.decode_reply(encoded[:length], asked, VPS, CONTAINER)
    with pytest.raises(WireError):
        wire.decode_reply(encoded + b"\0", asked, VPS, CONTAINER)


def test_every_flipped_bit_is_refused() -> None:
    """There is no bit that may change on the way, in a reply or in a request."""
    asked = request()
    for encoded, decode in (
        (wire.encode_reply(reply_to(asked)), lambda sent: wire.decode_reply(sent, asked, VPS, CONTAINER)),
        (wire.encode_request(asked), wire.decode_request),
    ):
        accepted = 0
        for place in range(len(encoded) * 8):
            forged = bytearray(encoded)
            forged[place // 8] ^= 1 << place % 8
            try:
                decode(bytes(forged))
            except WireError:
                continue
            accepted += 1
        assert accepted == 0


@given(st.binary(max_size=400))
def test_noise_is_refused(noise: bytes) -> None:
    """Whatever was sent, the only error is ours."""
    for decode in (lambda sent: wire.decode_reply(sent, request(), VPS, CONTAINER), wire.decode_request):
        with pytest.raises(WireError):
            decode(noise)
        with pytest.raises(WireError):
            decode(sealed(b"R", noise, b""))
        with pytest.raises(WireError):
            decode(sealed(b"Q", noise, b""))


def sealed(kind: bytes, header: bytes, body: bytes) -> bytes:
    """Return a well-framed message around anything."""
    message = struct.pack(">4scII", b"VSA1", kind, len(header), len(body)) + header + body
    return message + hashlib.sha256(message).digest()


def forge(
    change: Callable[[dict[str, object]], object], known: frozenset[Version] = frozenset()
) -> WireError:
    """Return how a reply is refused after ``change`` was made to its header and it was sealed again."""
    asked = request(known)
    encoded = wire.encode_reply(reply_to(asked))
    _, _, header_length, _ = struct.unpack(">4scII", encoded[:13])
    header = json.loads(encoded[13 : 13 + header_length])
    change(header)
    body = encoded[13 + header_length : -32]
    with pytest.raises(WireError) as caught:
        wire.decode_reply(sealed(b"R", json.dumps(header).encode(), body), asked, VPS, CONTAINER)
    return caught.value


def put(path: str, value: object) -> Callable[[dict[str, object]], object]:
    """Return a change that sets the member at ``path``, or removes it where ``value`` is a tuple."""

    def change(header: object) -> None:
        *way, last = path.split(".")
        for key in way:
            header = header[int(key)] if isinstance(header, list) else header[key]  # type: ignore[index]  # JSON
        key_or_index = int(last) if isinstance(header, list) else last
        if value == ():
            del header[key_or_index]  # type: ignore[attr-defined]  # JSON
        else:
            header[key_or_index] = value  # type: ignore[index]  # JSON

    return change


OTHER = "vps-prod-002/JWT_SECRET"
A_FAILURE = {
    "step": "TLS",
    "fault": "transient",
    "tried": "x",
    "advice": "y",
    "status": None,
    "retryAfter": None,
}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("nonce", "0" * 32),
        ("nonce", None),
        ("vpsId", "vps-prod-002"),
        ("container", "x"),
        ("added", 1),
        ("calls", ()),
        ("reading", None),
        ("reading", []),
        ("failure", A_FAILURE),
        ("reading.added", 1),
        ("reading.entries", {}),
        ("reading.entries", [["vps-prod-001/JWT_SECRET", str(version(1))]] * 201),
        ("reading.entries", []),
        ("reading.entries.0", ["vps-prod-001/JWT_SECRET"]),
        ("reading.entries.0", [OTHER, str(version(1))]),
        ("reading.entries.0", ["vps-prod-001/", str(version(1))]),
        ("reading.entries.0", ["vps-prod-001/a\0", str(version(1))]),
        ("reading.entries.0", ["vps-prod-001/OTHER", str(version(1))]),
        ("reading.entries.0", ["vps-prod-001/JWT_SECRET~0", str(version(1))]),
        ("reading.entries.0", ["vps-prod-001/JWT_SECRET~1x", str(version(1))]),
        ("reading.entries.0", [1, str(version(1))]),
        ("reading.read.0.name", "vps-prod-001/JWT_SECRET~1"),
        ("reading.entries.0.1", str(version(3))),
        ("reading.entries.0.1", str(version(1)).upper() + "x"),
        ("reading.entries.1.1", str(version(1))),
        ("reading.read.0.name", OTHER),
        ("reading.read.0.name", "vps-prod-001/LATER"),
        ("reading.read.0.version", str(version(2))),
        ("reading.read.0.size", 31),
        ("reading.read.0.size", -1),
        ("reading.read.0.size", True),
        ("reading.read.0.size", 32.0),
        ("reading.read.0.size", 64 * 1024 + 1),
        ("reading.read.0.contentType", "a\nb"),
        ("reading.read.0.contentType", "a" * 129),
        ("reading.read.0.created", None),
        ("reading.read.0.created", True),
        ("reading.read.0.created", -1),
        ("reading.read.0.created", float("nan")),
        ("reading.read.0.created", float("inf")),
        ("reading.read.0.created", 10**400),
        ("reading.read.0.expires", "1"),
        ("reading.unread", {str(version(1)): "absent"}),
        ("reading.unread", {str(version(9)): "absent"}),
        ("reading.unread", {str(version(2)): "gone"}),
        ("reading.unread", {str(version(2)): []}),
        ("foreign", ["x"] * 201),
        ("foreign", ["x" * 257]),
        ("foreign", ["\x1b[2J"]),
        ("foreign", ["\ud800"]),
        ("foreign", "x"),
        ("notices", ["x"] * 201),
        ("notices", ["x" * 501]),
        ("notices", ["a\nb"]),
        ("notices", [None]),
        ("notices", ()),
        ("calls.keystone", 1),
        ("calls.keystone", {"ok": 1, "refused": 0}),
        ("calls.keystone.ok", -1),
        ("calls.keystone.ok", True),
        ("calls.keystone.ok", 1_000_001),
        ("calls.keystone.other", 1),
        ("calls.other", {"ok": 1, "refused": 0, "failed": 0}),
        ("timings.list", float("nan")),
        ("timings.list", False),
        ("timings.start", ()),
        ("listed", 1),
        ("listed", "no"),
        ("credentialExpires", -1.0),
        ("credentialExpires", 1e12),
        ("credentialExpires", float("inf")),
        ("credentialExpires", True),
        ("credentialExpires", "2026-11-24"),
        ("acknowledged", None),
        ("acknowledged", ["x" * 64]),
        ("acknowledged", ["A" * 64]),
        ("acknowledged", ["0" * 63]),
        ("acknowledged", ["0" * 64] * 101),
        ("acknowledged", [1]),
        ("acknowledgeProblem", None),
        ("acknowledgeProblem", "a\nb"),
        ("acknowledgeProblem", "x" * 501),
        ("tokenState", 31),
        ("tokenState", 33),
        ("tokenState", -32),
        ("tokenState", True),
    ],
)
def test_a_forged_field_is_refused(path: str, value: object) -> None:
    """A well-sealed reply whose fields break a rule is refused, and the text holds nothing of it."""
    error = forge(put(path, value))
    assert error.__context__ is None
    assert (CANARY in str(error)) is False


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("step", "none"),
        ("fault", 1),
        ("tried", "a\nb"),
        ("tried", "x" * 501),
        ("advice", None),
        ("status", True),
        ("status", 1000),
        ("retryAfter", -1),
        ("retryAfter", float("inf")),
        ("more", 1),
    ],
)
def test_a_forged_failure_is_refused(member: str, value: object) -> None:
    """Failure texts are one printable line each: they go to the journal."""

    def change(header: dict[str, object]) -> None:
        header["reading"], header["failure"] = None, A_FAILURE | {member: value}

    assert "reply" in str(forge(change))


def test_what_was_known_is_not_taken_again() -> None:
    """A version that serve holds can't be replaced by sending it a second time."""
    assert "known" in str(forge(lambda _: None, frozenset({version(1)})))
    assert "known" in str(forge(lambda _: None, frozenset({version(2)})))


def test_a_failure_carries_no_payload() -> None:
    """The body of a failure is the token state alone."""

    def change(header: dict[str, object]) -> None:
        header["reading"], header["failure"] = None, A_FAILURE

    assert "add up" in str(forge(change))


@pytest.mark.parametrize(
    "header",
    [
        b'{"nonce": 1, "nonce": 1}',
        b"[" * 100_000,
        b'"\xff"',
        b"[]",
        b"1" * 5000,
        b'{"nonce":"%s","nonce":' % CANARY.encode(),
    ],
)
def test_odd_json_is_refused_without_its_text(header: bytes) -> None:
    """Duplicate keys, deep nesting and broken UTF-8; the parser's own error, which holds it all, is gone."""
    for kind, decode in (
        (b"R", lambda sent: wire.decode_reply(sent, request(), VPS, CONTAINER)),
        (b"Q", wire.decode_request),
    ):
        with pytest.raises(WireError) as caught:
            decode(sealed(kind, header, b""))
        assert caught.value.__context__ is None
        assert (CANARY in str(caught.value)) is False


@pytest.mark.parametrize(
    "change",
    [
        {"nonce": "g" * 32},
        {"nonce": "0" * 31},
        {"known": ["x"]},
        {"known": [str(uuid.UUID(int=number)) for number in range(801)]},
        {"readsDoubles": 1},
        {"timeout": 0},
        {"timeout": 3601},
        {"timeout": "30"},
        {"extra": None},
    ],
)
def test_a_forged_request_is_refused(change: dict[str, object]) -> None:
    """Fetch trusts its request no more than serve its reply."""
    header = {"nonce": "0" * 32, "known": [], "readsDoubles": False, "timeout": 30} | change
    with pytest.raises(WireError):
        wire.decode_request(sealed(b"Q", json.dumps(header).encode(), b""))


@pytest.mark.parametrize(
    ("header", "body"), [(1024 * 1024 + 1, 0), (0, 64 * 1024 + 4 * 1024 * 1024 + 1), (2**32 - 1, 2**32 - 1)]
)
def test_an_oversized_message_is_refused_before_it_is_read(header: int, body: int) -> None:
    """The first bytes tell the length, so that nobody reserves memory for more than allowed."""
    with pytest.raises(WireError, match="longer"):
        wire.remaining(struct.pack(">4scII", b"VSA1", b"R", header, body))
    with pytest.raises(WireError):
        wire.remaining(b"VSA1R")


def test_messages_show_neither_token_nor_payload() -> None:
    """The values' repr leaves them out."""
    asked = wire.Request("0" * 32, frozenset(), reads_doubles=False, timeout=1, token_state=CANARY.encode())
    assert (CANARY in repr(asked)) is False
    assert (CANARY in repr(reply_to(asked))) is False
