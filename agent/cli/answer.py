"""What the agent answered, checked and cleaned in this one place: whoever listens there may send anything.

After :func:`checked` every member that the command uses has its type or is absent, every number is finite,
and no text holds anything of Unicode's category C (control characters, escape sequences, bidirectional
overrides, lone surrogates). So nothing that is shown, as text or as JSON, moves a cursor or sets a title.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from typing import Final

Shape: TypeAlias = "type | list[Shape] | dict[str, Shape]"
"""A type, a list of one shape, or an object by its members; the member ``*`` stands for every other."""

MOST_DEPTH: Final = 8
MOST_NUMBER: Final = 2**63
"""More than any time in seconds, size in bytes or count."""


class Lines(str):
    """Text that may have several lines."""

    __slots__ = ()


_FAILURE: Final[Shape] = {"step": str, "status": int, "tried": str, "advice": str}
_SECRET: Final[Shape] = {
    "name": str,
    "version": str,
    "size": int,
    "age": float,
    "stale": bool,
    "previous": bool,
    "openedBy": str,
}
_BUDGET: Final[Shape] = {
    "callsPerMonth": int,
    "calls": int,
    "projectedCalls": int,
    "projectedCost": float,
    "currency": str,
    "wholeMonth": bool,
    "countedSince": str,
    "stretched": str,
    "pollInterval": float,
}
_BEACON: Final[Shape] = {
    "state": str,
    "url": str,
    "lastChange": float,
    "pollIn": float,
    "nextLookIn": float,
    "failure": _FAILURE,
}
_ACKNOWLEDGED: Final[Shape] = {"generation": int, "at": str, "current": bool, "problem": str}
_SHAPE: Final[Shape] = {
    # problems (RFC 9457), and what several answers have
    "type": str,
    "title": str,
    "detail": str,
    "failure": _FAILURE,
    "nextAttemptIn": float,
    "generation": int,
    "secrets": [_SECRET],
    "changed": [str],
    "allowed": bool,
    "lines": [str],
    # of the status
    "vpsId": str,
    "state": str,
    "notReady": str,
    "confirmedAge": float,
    "credentialExpires": str,
    "renewal": {"next": str, "renewedAt": str, "triedAt": str, "problem": str},
    "droppedIn": float,
    "agent": {"version": str, "pid": int, "uptime": float},
    "cycles": {"total": int, "failed": int, "inARow": int},
    "memory": {"kind": str, "bytes": int, "kept": bool, "whyNotKept": str},
    "budget": _BUDGET,
    "beacon": _BEACON,
    "acknowledged": _ACKNOWLEDGED,
    "denied": {"*": int},
    "watchers": int,
    "grants": [str],
    "pending": [str],
    "foreign": [str],
    "warnings": [str],
    "configurationError": Lines,
}
"""The members of all answers that the command uses: a name means the same in each. Others are cleaned."""


class AnswerError(Exception):
    """What came back is not an answer of the agent."""


def clean(untrusted: object) -> str:
    """Return a text that can't move the cursor or change the title of a terminal, in one line."""
    text = str(untrusted)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def checked(untrusted: bytes) -> dict[str, Any]:
    """Return the members of an answer's body.

    Raises:
        AnswerError: it is not a JSON object, or a member has another type or size than it should.
    """
    try:
        content = json.loads(untrusted)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise AnswerError("the answer is not a JSON object")
    members: dict[str, Any] = _checked(content, _SHAPE, "the answer", MOST_DEPTH)
    return members


def _checked(untrusted: object, shape: Shape | None, what: str, depth: int) -> Any:
    """Return a value of a shape; without one it may be anything that JSON has."""
    if not depth:
        raise AnswerError("the answer is nested too deeply")
    if isinstance(untrusted, dict):
        shapes = _expect(shape, dict, what)
        return {
            clean(key): _checked(value, shapes.get(key, shapes.get("*")), clean(key)[:40], depth - 1)
            for key, value in untrusted.items()
        }
    if isinstance(untrusted, list):
        of = next(iter(_expect(shape, list, what)), None)
        if of is not None and None in untrusted:
            raise AnswerError(f"{what} in the answer has an element that is null")
        return [_checked(value, of, what, depth - 1) for value in untrusted]
    if isinstance(shape, (dict, list)) and untrusted is not None:
        raise AnswerError(f"{what} in the answer has another type than it should")
    return _scalar(untrusted, None if isinstance(shape, (dict, list)) else shape, what)


def _expect(shape: Shape | None, kind: type, what: str) -> Any:
    """Return the shape of an object's members or a list's elements."""
    if shape is None:
        return kind()
    if not isinstance(shape, kind):
        raise AnswerError(f"{what} in the answer has another type than it should")
    return shape


def _scalar(untrusted: object, expected: type | None, what: str) -> object:
    """Return a text, number, boolean or null."""
    if isinstance(untrusted, str) and expected in {None, str, Lines}:
        return "\n".join(map(clean, untrusted.splitlines())) if expected is Lines else clean(untrusted)
    if isinstance(untrusted, bool) and expected in {None, bool}:
        return untrusted
    if isinstance(untrusted, (int, float)) and not isinstance(untrusted, bool):
        fits = expected in {None, float} or (expected is int and isinstance(untrusted, int))
        if fits and -MOST_NUMBER <= untrusted <= MOST_NUMBER:  # which NaN and infinity are not
            return untrusted
    if untrusted is None:
        return None
    raise AnswerError(f"{what} in the answer has another type or size than it should")
