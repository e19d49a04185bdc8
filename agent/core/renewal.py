"""When a VPS renews its own credential, what the credential's file holds, and what is told about it. Pure.

The life of a credential is ``LIFE_S``; when a third of it is left the next one is made. All dates are Unix
time (s). The record is a file that everybody on the machine may read: it holds ids, dates and words.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Final

from common import untrusted_json
from common.dates import LAST_TIME
from common.untrusted_json import MalformedError

DAY_S: Final = 86_400.0
LIFE_S: Final = 90 * DAY_S
LEFT_S: Final = LIFE_S / 3
PASSWORD_S: Final = 365 * DAY_S
"""So old the account's password may become before it is changed, with the next renewal."""
CHECK_S: Final = DAY_S
"""After this the password is tried, though nothing is to be renewed: somebody may have set another one."""
KEY_S: Final = 365 * DAY_S
"""So old a sealing key may become before the next one is taken, with the next renewal."""
FORMER_KEY_S: Final = 30 * DAY_S
"""So long the former one is kept at least: what is rolled back may be sealed to it."""
LATE_S: Final = 3 * DAY_S
"""A renewal that is due for so long and was not made is an alarm: it is tried every hour."""
RECORD: Final = "renewal.json"
"""Beside agent.toml."""
MAX_BYTES: Final = 16_384
_MAX_ID: Final = 64
_MAX_SECRET: Final = 1024
_MAX_WORDS: Final = 1000
_MAX_FOREIGN: Final = 20
_MAX_NAME: Final = 300


@dataclass(frozen=True, slots=True)
class Pair:
    """An application credential's id with its secret, as one file holds both: one rename changes both."""

    id: str
    secret: str = field(repr=False)

    def content(self) -> bytes:
        """Return what the file holds."""
        return json.dumps({"id": self.id, "secret": self.secret}).encode()


def pair(untrusted: str) -> Pair | None:
    """Return what a credential's file holds, None where that is a secret alone, as ``setup`` writes it."""
    if not untrusted.startswith("{"):
        return None
    what = "the credential"
    try:
        members = untrusted_json.record(
            untrusted_json.parse(untrusted.encode(), what), what, ("id", "secret")
        )
        return Pair(
            untrusted_json.text(members["id"], "id", _MAX_ID),
            untrusted_json.text(members["secret"], "secret", _MAX_SECRET),
        )
    except MalformedError:
        return None


@dataclass(frozen=True, slots=True)
class Record:
    """How the renewal stands.

    ``credential`` is the one in force, ``expires`` its end (None: never), ``password_since`` when the
    password was made as far as is known, ``renewed`` when the credential was made here, ``pending`` says that
    the former one is there still. ``problem`` is why the last attempt (``tried``) failed, ``foreign`` what
    the user had that this machine did not make, ``key_since`` since when the sealing key is in force.
    """

    credential: str = ""
    expires: float | None = None
    password_since: float = 0.0
    renewed: float | None = None
    tried: float | None = None
    pending: bool = False
    problem: str = ""
    foreign: tuple[str, ...] = ()
    key_since: float | None = None

    @property
    def next(self) -> float | None:
        """When the next credential is made; None: never, or it is not known."""
        return None if self.expires is None else self.expires - LEFT_S


def is_due(expires: float | None, now: float) -> bool:
    """Return whether no more than a third of a credential's life is left."""
    return expires is not None and now >= expires - LEFT_S


def is_quiet(record: Record, credential: str, now: float) -> bool:
    """Return whether there is nothing to do, so that nobody has to be asked."""
    known = bool(credential) and record.credential == credential and not record.pending
    return known and not is_due(record.expires, now)


def is_checked(record: Record, now: float) -> bool:
    """Return whether the password was tried within a day, by the clock of this machine, and was right."""
    return not record.problem and record.tried is not None and 0 <= now - record.tried < CHECK_S


def warning(record: Record, now: float) -> str:
    """Return what an operator has to know, or nothing."""
    if record.foreign:
        return (
            f"somebody has used this VPS's account: it had {', '.join(record.foreign)}, which this machine "
            "did not make and has deleted; take the VPS for compromised"
        )
    if record.problem:
        return f"the credential could not be renewed: {record.problem}; it is tried every hour"
    if record.next is not None and now > record.next + LATE_S:
        return "the credential is due for renewal, and nobody tries: systemctl status vps-secrets-renew.timer"
    return ""


def encode(record: Record) -> bytes:
    """Return the file's content."""
    content = {
        "credential": record.credential,
        "expires": record.expires,
        "passwordSince": record.password_since,
        "renewed": record.renewed,
        "tried": record.tried,
        "pending": record.pending,
        "problem": untrusted_json.printable(record.problem, _MAX_WORDS),
        "foreign": [untrusted_json.printable(one, _MAX_NAME) for one in record.foreign[:_MAX_FOREIGN]],
        "keySince": record.key_since,
    }
    return json.dumps(content).encode() + b"\n"


def parse(untrusted: bytes) -> Record:
    """Return what the file says.

    Raises:
        MalformedError: it is not as :func:`encode` writes it.
    """
    keys = (
        *("credential", "expires", "passwordSince", "renewed", "tried", "pending", "problem", "foreign"),
        "keySince",
    )
    members = untrusted_json.record(untrusted_json.parse(untrusted, RECORD), RECORD, keys)
    foreign = untrusted_json.array(members["foreign"], "foreign", _MAX_FOREIGN)
    return Record(
        untrusted_json.text(members["credential"], "credential", _MAX_ID),
        _moment(members["expires"], "expires"),
        untrusted_json.number(members["passwordSince"], "passwordSince", LAST_TIME),
        _moment(members["renewed"], "renewed"),
        _moment(members["tried"], "tried"),
        members["pending"] is True,
        untrusted_json.text(members["problem"], "problem", _MAX_WORDS),
        tuple(untrusted_json.text(one, "foreign", _MAX_NAME) for one in foreign),
        _moment(members["keySince"], "keySince"),
    )


def _moment(untrusted: object, what: str) -> float | None:
    return None if untrusted is None else untrusted_json.number(untrusted, what, LAST_TIME)
