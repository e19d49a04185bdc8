"""The request and the reply between serve and fetch: framing, bounds and every check.

A message is :data:`MAGIC`, a kind byte, the lengths of header and body (u32, big-endian), the header (JSON,
no payloads in it), the body (the token state, then the payloads back to back) and the SHA-256 of all that.
End of file follows it.

Owns nothing. Invariants: a message is taken whole or refused whole with :class:`WireError`, whose text names
the rule and never holds a part of the message; the checks are the same on both sides, so that nothing is sent
which the other side would refuse; names on the wire are full (``vps-prod-001/JWT_SECRET``), so that whoever
reads a reply checks the VPS id of every one again; what was known is not sent again.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar

from agent.core import wire_fields
from agent.core.errors import Step, WireError
from common import untrusted_json
from common.acknowledgement import is_digest
from common.limits import MAX_PAYLOADS, MAX_SECRETS
from common.untrusted_json import MalformedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from agent.core.errors import Failure
    from agent.core.rotation import Reading
    from agent.core.secret import SecretMetadata
    from common.names import Version

T = TypeVar("T")
MAGIC: Final = b"VSA1"
_PREFIX: Final = struct.Struct(">4scII")
PREFIX_BYTES: Final = _PREFIX.size
_DIGEST_BYTES: Final = hashlib.sha256().digest_size

MAX_TOKEN_STATE: Final = 64 * 1024
MAX_NOTICES: Final = 200
FOREIGN_CHARACTERS: Final = 256
MAX_ACKNOWLEDGED: Final = 100
_MAX_HEADER: Final = 1024 * 1024
_MAX_KNOWN: Final = 4 * MAX_SECRETS
_MAX_TIMEOUT: Final = 3600.0
_MAX_DURATION: Final = 86_400.0
_NONCE: Final = re.compile(r"[0-9a-f]{32}")

PHASES: Final = ("start", "login", "list", "payloads")


@dataclass(frozen=True, slots=True)
class Bounds:
    """One kind of message and how long its two parts may be, in bytes."""

    kind: bytes
    header: int
    body: int


REQUEST: Final = Bounds(b"Q", _MAX_HEADER, MAX_TOKEN_STATE)
REPLY: Final = Bounds(b"R", _MAX_HEADER, MAX_TOKEN_STATE + MAX_PAYLOADS)


@dataclass(frozen=True, slots=True)
class Request:
    """What serve asks of one cycle. ``timeout`` (s) bounds all of it; ``token_state`` is empty for none."""

    nonce: str
    known: frozenset[Version]
    reads_doubles: bool
    timeout: float
    token_state: bytes = field(default=b"", repr=False)
    serves: str | None = None
    """The digest of what serve serves (common/acknowledgement.py), None where the container is not told."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What one cycle learned: exactly one of ``reading`` and ``failure``.

    ``payloads`` has one for each version read. ``rejected`` are entries of others, ``notices`` what else was
    not as it should be, both for people.
    ``calls`` counts HTTP requests by service and outcome; ``timings`` are in seconds per phase. ``listed``
    tells whether Barbican gave the list of metadata, None where it was not asked for. ``credential_expires``
    is Unix time (s), None for never or unknown. ``acknowledged`` are the digests of what is served that the
    container lists when the cycle ends, ``acknowledge_problem`` why that is not what was asked for, or "".
    """

    nonce: str
    vps_id: str
    container: str
    reading: Reading | None
    failure: Failure | None
    payloads: Mapping[Version, bytes] = field(default_factory=dict, repr=False)
    rejected: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
    calls: wire_fields.Calls = field(default_factory=wire_fields.no_calls)
    timings: Mapping[str, float] = field(default_factory=dict)
    token_state: bytes = field(default=b"", repr=False)
    listed: bool | None = None
    credential_expires: float | None = None
    acknowledged: tuple[str, ...] = ()
    acknowledge_problem: str = ""


def remaining(untrusted_prefix: bytes, bounds: Bounds = REPLY) -> int:
    """Return how many bytes follow the first :data:`PREFIX_BYTES`; more or fewer are a broken message.

    Raises:
        WireError: it is not the beginning of such a message, or the message would be too long.
    """
    header, body = _lengths(untrusted_prefix, bounds)
    return header + body + _DIGEST_BYTES


def encode_request(request: Request) -> bytes:
    """Return the message for fetch.

    Raises:
        WireError: it breaks a rule.
    """
    header: dict[str, object] = {
        "nonce": request.nonce,
        "known": sorted(request.known),
        "readsDoubles": request.reads_doubles,
        "timeout": request.timeout,
        "serves": request.serves,
    }
    checked("request", lambda: _request(header, request.token_state))
    return frame(REQUEST, header, (request.token_state,))


def decode_request(untrusted: bytes) -> Request:
    """Return the request.

    Raises:
        WireError: it breaks a rule.
    """
    untrusted_header, token_state = unframe(untrusted, REQUEST)
    return checked(
        "request", lambda: _request(untrusted_json.parse(untrusted_header, "the header"), token_state)
    )


def encode_reply(reply: Reply, known: frozenset[Version] = frozenset()) -> bytes:
    """Return the message for serve; ``known`` is what the request said is known.

    Raises:
        WireError: :func:`decode_reply` would refuse it.
    """
    header: dict[str, object] = {
        "nonce": reply.nonce,
        "vpsId": reply.vps_id,
        "container": reply.container,
        "reading": reply.reading and wire_fields.reading_out(reply.vps_id, reply.reading),
        "failure": reply.failure and wire_fields.failure_out(reply.failure),
        "foreign": list(reply.rejected),
        "notices": list(reply.notices),
        "calls": {service: dict(outcomes) for service, outcomes in reply.calls.items()},
        "timings": dict(reply.timings),
        "listed": reply.listed,
        "tokenState": len(reply.token_state),
        "credentialExpires": reply.credential_expires,
        "acknowledged": list(reply.acknowledged),
        "acknowledgeProblem": reply.acknowledge_problem,
    }
    read = reply.reading.read if reply.reading else {}
    if not reply.payloads.keys() >= read.keys():
        raise WireError("reply: a version that was read has no payload")
    payloads = [reply.payloads[version] for version in read]
    asked = Request(reply.nonce, known, reads_doubles=True, timeout=_MAX_TIMEOUT)
    checked(
        "reply",
        lambda: _reply(
            header, b"".join((reply.token_state, *payloads)), asked, reply.vps_id, reply.container
        ),
    )
    return frame(REPLY, header, (reply.token_state, *payloads))


def decode_reply(untrusted: bytes, request: Request, vps_id: str, container: str) -> Reply:
    """Return the reply to ``request`` for this VPS and container.

    Raises:
        WireError: it breaks a rule, or answers another request, VPS or container.
    """
    untrusted_header, body = unframe(untrusted, REPLY)
    return checked(
        "reply",
        lambda: _reply(
            untrusted_json.parse(untrusted_header, "the header"), body, request, vps_id, container
        ),
    )


def checked(message: str, check: Callable[[], T]) -> T:
    """Return what ``check`` returns; a broken rule is raised as WireError, without context."""
    try:
        return check()
    except MalformedError as error:
        broken = str(error)
    raise WireError(f"{message}: {broken}")


def frame(bounds: Bounds, header: object, body: tuple[bytes, ...]) -> bytes:
    """Return a message of this kind.

    Raises:
        WireError: it is longer than this kind may be.
    """
    encoded = json.dumps(header, allow_nan=False, separators=(",", ":")).encode()
    length = sum(map(len, body))
    if len(encoded) > bounds.header or length > bounds.body:
        raise WireError("the message is longer than allowed")
    prefix = _PREFIX.pack(MAGIC, bounds.kind, len(encoded), length)
    message = b"".join((prefix, encoded, *body))
    return message + hashlib.sha256(message).digest()


def _lengths(untrusted_prefix: bytes, bounds: Bounds) -> tuple[int, int]:
    if len(untrusted_prefix) < PREFIX_BYTES:
        raise WireError("the message is truncated")
    magic, kind, header, body = _PREFIX.unpack_from(untrusted_prefix)
    if magic != MAGIC or kind != bounds.kind:
        raise WireError("this is not such a message")
    if header > bounds.header or body > bounds.body:
        raise WireError("the message is longer than allowed")
    return header, body


def unframe(untrusted: bytes, bounds: Bounds) -> tuple[bytes, bytes]:
    """Return header and body of a whole message of this kind, or raise WireError."""
    header, body = _lengths(untrusted, bounds)
    end = PREFIX_BYTES + header + body
    if len(untrusted) != end + _DIGEST_BYTES:
        raise WireError("the message is not as long as it says")
    digest = hashlib.sha256(memoryview(untrusted)[:end]).digest()
    if not hmac.compare_digest(digest, untrusted[end:]):
        raise WireError("the message does not match its digest")
    return untrusted[PREFIX_BYTES : PREFIX_BYTES + header], untrusted[PREFIX_BYTES + header : end]


def _request(untrusted_header: object, token_state: bytes) -> Request:
    header = untrusted_json.record(
        untrusted_header,
        "the header",
        ("nonce", "known", "readsDoubles", "timeout", "serves"),
    )
    known = [wire_fields.version(item) for item in untrusted_json.array(header["known"], "known", _MAX_KNOWN)]
    timeout = untrusted_json.number(header["timeout"], "timeout", _MAX_TIMEOUT)
    if timeout == 0:
        raise MalformedError("timeout is zero")
    return Request(
        nonce(header["nonce"]),
        frozenset(known),
        untrusted_json.boolean(header["readsDoubles"], "readsDoubles"),
        timeout,
        token_state,
        None if header["serves"] is None else _digest(header["serves"]),
    )


def _reply(untrusted_header: object, body: bytes, request: Request, vps_id: str, container: str) -> Reply:
    header = untrusted_json.record(
        untrusted_header,
        "the header",
        (
            *("nonce", "vpsId", "container", "reading", "failure"),
            *("foreign", "notices", "calls", "timings", "listed", "tokenState", "credentialExpires"),
            *("acknowledged", "acknowledgeProblem"),
        ),
    )
    if nonce(header["nonce"]) != request.nonce:
        raise MalformedError("it answers another request")
    if (header["reading"] is None) is (header["failure"] is None):
        raise MalformedError("it has not exactly one of reading and failure")
    reading = failure = None
    if header["reading"] is not None:
        reading = wire_fields.reading(header["reading"], vps_id, request.known)
    else:
        failure = wire_fields.failure(header["failure"])
    nameless = failure is not None and failure.step is Step.CONFIGURATION  # without it fetch knows neither
    if (header["vpsId"], header["container"]) != (("", "") if nameless else (vps_id, container)):
        raise MalformedError("it is about another VPS or container")
    token_bytes = untrusted_json.integer(header["tokenState"], "tokenState", MAX_TOKEN_STATE)
    token_state, payloads = _split(body, token_bytes, reading.read if reading else {})
    return Reply(
        request.nonce,
        vps_id,
        container,
        reading,
        failure,
        payloads,
        _lines(header["foreign"], "foreign", FOREIGN_CHARACTERS),
        _lines(header["notices"], "notices", wire_fields.FAILURE_CHARACTERS),
        wire_fields.calls(header["calls"]),
        _timings(header["timings"]),
        token_state,
        None if header["listed"] is None else untrusted_json.boolean(header["listed"], "listed"),
        wire_fields.moment(header["credentialExpires"], "credentialExpires"),
        tuple(
            _digest(item)
            for item in untrusted_json.array(header["acknowledged"], "acknowledged", MAX_ACKNOWLEDGED)
        ),
        untrusted_json.text(
            header["acknowledgeProblem"], "acknowledgeProblem", wire_fields.FAILURE_CHARACTERS
        ),
    )


def _split(
    body: bytes, token_bytes: int, read: Mapping[Version, SecretMetadata]
) -> tuple[bytes, dict[Version, bytes]]:
    sizes = [facts.size for facts in read.values()]
    if sum(sizes) > MAX_PAYLOADS or token_bytes + sum(sizes) != len(body):
        raise MalformedError("the sizes do not add up to the body")
    payloads, at = {}, token_bytes
    for version, size in zip(read, sizes, strict=True):
        payloads[version] = body[at : at + size]
        at += size
    return body[:token_bytes], payloads


def _lines(untrusted: object, what: str, characters: int) -> tuple[str, ...]:
    lines = untrusted_json.array(untrusted, what, MAX_NOTICES)
    return tuple(untrusted_json.text(line, what, characters) for line in lines)


def _digest(untrusted: object) -> str:
    if not isinstance(untrusted, str) or not is_digest(untrusted):
        raise MalformedError("a digest of what is served is not 64 hexadecimal digits")
    return untrusted


def _timings(untrusted: object) -> dict[str, float]:
    members = untrusted_json.record(untrusted, "timings", PHASES)
    return {phase: untrusted_json.number(spent, "timings", _MAX_DURATION) for phase, spent in members.items()}


def nonce(untrusted: object) -> str:
    """Return a nonce, or raise MalformedError."""
    if not isinstance(untrusted, str) or not _NONCE.fullmatch(untrusted):
        raise MalformedError("nonce is not 32 hexadecimal digits")
    return untrusted
