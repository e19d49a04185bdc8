"""The other request between serve and fetch, and its reply: "watch the beacon, and tell me when it differs".

Framed as agent/core/wire.py frames everything. Invariants: a message is taken whole or refused whole; a
validator is one of our two forms, so that whatever a server sent as ETag goes into no header and no log but
as checked here; the reply can say nothing but what was seen, or why nothing was.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from agent.core import wire, wire_fields
from common import untrusted_json
from common.untrusted_json import MalformedError

if TYPE_CHECKING:
    from agent.core.errors import Failure

LOOK_S: Final = 15.0
"""The most that one look takes, whatever the server does; a login, where one is needed, included."""
MAX_LIFETIME_S: Final = 4000.0
"""The longest watch; RuntimeMaxSec= of vps-secrets-fetch@.service is longer."""

ETAG, DIGEST = "etag:", "sha256:"
_SEEN: Final = re.compile(r'etag:"[!#-~]{0,200}"|sha256:[0-9a-f]{64}')  # RFC 9110, 8.8.3, less obs-text
_MAX_HEADER: Final = 16 * 1024
_MAX_COUNT: Final = 1_000_000

WATCH: Final = wire.Bounds(b"W", _MAX_HEADER, wire.MAX_TOKEN_STATE)
SIGHT: Final = wire.Bounds(b"S", _MAX_HEADER, 0)


@dataclass(frozen=True, slots=True)
class Watch:
    """Look every ``interval`` (s) for ``lifetime`` (s, 0 is one look), and reply when it is not ``seen``.

    ``seen`` is None where nothing was seen yet: then the first look is told.
    """

    nonce: str
    seen: str | None
    interval: float
    lifetime: float
    token_state: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class WatchResult:
    """How a watch ended: exactly one of ``seen`` and ``failure``. ``looks`` and ``logins`` count requests."""

    nonce: str
    seen: str | None
    failure: Failure | None
    looks: int
    logins: int


def is_seen(untrusted: str) -> bool:
    """Return whether a text is a validator of ours: an entity tag, or the digest of a body."""
    return _SEEN.fullmatch(untrusted) is not None


def bounds_of(untrusted_prefix: bytes) -> wire.Bounds:
    """Return what a request may be by its first bytes; one that is neither fails the checks of a reading."""
    at = len(wire.MAGIC)
    return WATCH if untrusted_prefix[at : at + 1] == WATCH.kind else wire.REQUEST


def encode_watch(watch: Watch) -> bytes:
    """Return the message for fetch.

    Raises:
        WireError: it breaks a rule.
    """
    header: dict[str, object] = {
        "nonce": watch.nonce,
        "seen": watch.seen,
        "interval": watch.interval,
        "lifetime": watch.lifetime,
    }
    wire.checked("watch", lambda: _watch(header, watch.token_state))
    return wire.frame(WATCH, header, (watch.token_state,))


def decode_watch(untrusted: bytes) -> Watch:
    """Return the request.

    Raises:
        WireError: it breaks a rule.
    """
    untrusted_header, token_state = wire.unframe(untrusted, WATCH)
    return wire.checked(
        "watch", lambda: _watch(untrusted_json.parse(untrusted_header, "the header"), token_state)
    )


def encode_sight(sight: WatchResult) -> bytes:
    """Return the message for serve.

    Raises:
        WireError: :func:`decode_sight` would refuse it.
    """
    header: dict[str, object] = {
        "nonce": sight.nonce,
        "seen": sight.seen,
        "failure": sight.failure and wire_fields.failure_out(sight.failure),
        "looks": sight.looks,
        "logins": sight.logins,
    }
    wire.checked("sight", lambda: _sight(header, sight.nonce))
    return wire.frame(SIGHT, header, ())


def decode_sight(untrusted: bytes, watch: Watch) -> WatchResult:
    """Return the reply to ``watch``.

    Raises:
        WireError: it breaks a rule, or answers another request.
    """
    untrusted_header, _ = wire.unframe(untrusted, SIGHT)
    return wire.checked(
        "sight", lambda: _sight(untrusted_json.parse(untrusted_header, "the header"), watch.nonce)
    )


def _watch(untrusted_header: object, token_state: bytes) -> Watch:
    header = untrusted_json.record(
        untrusted_header,
        "the header",
        ("nonce", "seen", "interval", "lifetime"),
    )
    interval = untrusted_json.number(header["interval"], "interval", MAX_LIFETIME_S)
    if interval == 0:
        raise MalformedError("interval is zero")
    return Watch(
        wire.nonce(header["nonce"]),
        None if header["seen"] is None else _seen(header["seen"]),
        interval,
        untrusted_json.number(header["lifetime"], "lifetime", MAX_LIFETIME_S),
        token_state,
    )


def _sight(untrusted_header: object, nonce: str) -> WatchResult:
    header = untrusted_json.record(
        untrusted_header,
        "the header",
        ("nonce", "seen", "failure", "looks", "logins"),
    )
    if wire.nonce(header["nonce"]) != nonce:
        raise MalformedError("it answers another request")
    if (header["seen"] is None) is (header["failure"] is None):
        raise MalformedError("it has not exactly one of seen and failure")
    return WatchResult(
        nonce,
        None if header["seen"] is None else _seen(header["seen"]),
        None if header["failure"] is None else wire_fields.failure(header["failure"]),
        untrusted_json.integer(header["looks"], "looks", _MAX_COUNT),
        untrusted_json.integer(header["logins"], "logins", _MAX_COUNT),
    )


def _seen(untrusted: object) -> str:
    if not isinstance(untrusted, str) or not is_seen(untrusted):
        raise MalformedError("seen is neither an entity tag nor a digest")
    return untrusted
