"""Reading of untrusted JSON: every value is checked for its type and bound before anything uses it.

Errors name the rule that was broken and never hold a part of what was read, not even in ``__context__``.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, NoReturn

from common.errors import VpsSecretsError

if TYPE_CHECKING:
    from collections.abc import Collection


class MalformedError(VpsSecretsError):
    """What was read breaks a rule; the text names the rule and what it was about."""


def parse(untrusted: bytes, what: str) -> object:
    """Return the JSON value of UTF-8 ``untrusted``; duplicate keys and NaN are refused.

    Raises:
        MalformedError: it is not JSON (RFC 8259), or nested too deeply.
    """
    try:
        return json.loads(
            untrusted.decode("utf-8"), object_pairs_hook=_without_duplicates, parse_constant=_no_constant
        )
    except (ValueError, RecursionError):
        pass  # JSONDecodeError.doc holds the whole text: ours is raised outside, without a context
    raise MalformedError(f"{what} is not JSON")


def record(untrusted: object, what: str, keys: Collection[str]) -> dict[str, object]:
    """Return an object that has exactly ``keys``."""
    members = mapping(untrusted, what)
    if members.keys() != set(keys):
        raise MalformedError(f"{what} has other keys than its own")
    return members


def mapping(untrusted: object, what: str) -> dict[str, object]:
    """Return an object with any keys."""
    if not isinstance(untrusted, dict):
        raise MalformedError(f"{what} is not an object")
    return untrusted


def array(untrusted: object, what: str, most: int) -> list[object]:
    """Return an array of at most ``most`` elements."""
    if not isinstance(untrusted, list):
        raise MalformedError(f"{what} is not an array")
    if len(untrusted) > most:
        raise MalformedError(f"{what} has more than {most} elements")
    return untrusted


def text(untrusted: object, what: str, most: int) -> str:
    """Return one line of at most ``most`` printable characters."""
    if not isinstance(untrusted, str):
        raise MalformedError(f"{what} is not a string")
    if len(untrusted) > most or not untrusted.isprintable():
        raise MalformedError(f"{what} is not one printable line of at most {most} characters")
    return untrusted


def boolean(untrusted: object, what: str) -> bool:
    """Return a boolean."""
    if not isinstance(untrusted, bool):
        raise MalformedError(f"{what} is not a boolean")
    return untrusted


def integer(untrusted: object, what: str, most: int) -> int:
    """Return an integer from 0 to ``most``; a boolean is none."""
    if not isinstance(untrusted, int) or isinstance(untrusted, bool):
        raise MalformedError(f"{what} is not an integer")
    if not 0 <= untrusted <= most:
        raise MalformedError(f"{what} is not between 0 and {most}")
    return untrusted


def number(untrusted: object, what: str, most: float) -> float:
    """Return a finite number from 0 to ``most``; a boolean is none."""
    if not isinstance(untrusted, int | float) or isinstance(untrusted, bool):
        raise MalformedError(f"{what} is not a number")
    if not (math.isfinite(untrusted) if isinstance(untrusted, float) else True) or not 0 <= untrusted <= most:
        raise MalformedError(f"{what} is not between 0 and {most:g}")
    return float(untrusted)


def printable(untrusted: str, most: int) -> str:
    """Return text for people: what can't be printed is escaped, and what is too long is cut."""
    shown = untrusted if untrusted.isprintable() else ascii(untrusted)[1:-1]
    return shown if len(shown) <= most else shown[: most - 1] + "…"


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("duplicate key")
    return members


def _no_constant(_: str) -> NoReturn:
    raise ValueError("not a JSON number")
