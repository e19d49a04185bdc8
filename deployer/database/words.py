"""What the columns take: short printable text, and JSON of names, numbers and words. Never bytes.

SQLite stores whatever it is given, in whatever column. So the form is checked here, for both databases alike:
a payload, a PEM file or a line too long is refused, by code and not by attention.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from sqlalchemy import BigInteger, Float, Integer, String, Text
from sqlalchemy.types import TypeDecorator

from deployer.database.errors import RefusedValueError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.engine import Dialect

    _OfText: TypeAlias = TypeDecorator[str]
    _OfNumber: TypeAlias = TypeDecorator[float]
    _OfCount: TypeAlias = TypeDecorator[int]
    _OfAny: TypeAlias = TypeDecorator[Any]
else:  # SQLAlchemy 1.4 has no generic types
    _OfText = _OfNumber = _OfCount = _OfAny = TypeDecorator

ID: Final = 64
NAME: Final = 200
SENTENCE: Final = 2000
DOCUMENT: Final = 256 * 1024
JSON: Final = 16 * 1024 * 1024
"""Characters of one JSON: what was replaced where, of a whole fleet."""
Detail: TypeAlias = "str | int | float | bool | Sequence[Detail] | Mapping[str, Detail] | None"
"""What a JSON column holds: names, references, numbers and reasons."""


class Words(_OfText):
    """One printable line of at most so many characters."""

    impl = String
    cache_ok = True

    def __init__(self, most: int = NAME) -> None:
        super().__init__(most)
        self.most = most

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:  # noqa: ARG002
        """Refuse what is no such line."""
        return None if value is None else line(value, self.most)

    def process_literal_param(self, value: Any, dialect: Dialect) -> str:
        """Refuse it in a literal too."""
        return str(self.process_bind_param(value, dialect))


class Json(_OfAny):
    """JSON as text, with its keys in order, so that equal values are equal text."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:  # noqa: ARG002
        """Write it; every text in it is checked as a column's is."""
        return None if value is None else encode(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:  # noqa: ARG002
        """Read it."""
        return None if value is None else json.loads(value)


class Document(_OfText):
    """A text of several lines that people wrote, such as a blueprint's."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:  # noqa: ARG002
        """Refuse what is no such text."""
        if value is not None:
            if type(value) is not str or len(value) > DOCUMENT:
                raise RefusedValueError(f"the database takes a text of at most {DOCUMENT} characters")
            for each in value.splitlines():
                line(each.replace("\t", " "), SENTENCE)
        return None if value is None else str(value)


class Moment(_OfNumber):
    """Seconds since 1970, UTC."""

    impl = Float
    cache_ok = True

    def __init__(self) -> None:
        super().__init__(53)  # double precision on PostgreSQL

    def process_bind_param(self, value: Any, dialect: Dialect) -> float | None:  # noqa: ARG002
        """Refuse what is no finite number."""
        if value is None:
            return None
        if type(value) not in {int, float} or not math.isfinite(value):
            raise RefusedValueError("the database takes a finite number as a moment")
        return float(value)


class Number(_OfCount):
    """An integer of 32 bits, or of 64 (``big``)."""

    impl = Integer
    cache_ok = True

    def __init__(self, *, big: bool = False) -> None:
        super().__init__()
        self.big = big

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        """SQLite has one kind, and numbers rows only by that."""
        return dialect.type_descriptor(BigInteger() if self.big and dialect.name != "sqlite" else Integer())

    def process_bind_param(self, value: Any, dialect: Dialect) -> int | None:  # noqa: ARG002
        """Refuse what is none."""
        if value is None:
            return None
        if type(value) is not int or abs(value) >= 2 ** (63 if self.big else 31):
            raise RefusedValueError("the database takes an integer as a number")
        return value


def line(value: object, most: int) -> str:
    """Return one printable line.

    Raises:
        RefusedValueError: it is something else; the message says nothing of it.
    """
    if not isinstance(value, str) or len(value) > most or not value.isprintable():
        raise RefusedValueError(f"the database takes one printable line of at most {most} characters")
    return str(value)


def encode(value: Detail) -> str:
    """Return JSON with its keys in order and nothing between its parts.

    Raises:
        RefusedValueError: it holds something else than :data:`Detail`, or a text that no column takes.
    """
    encoded = json.dumps(_checked(value), sort_keys=True, separators=(",", ":"))
    if len(encoded) > JSON:
        raise RefusedValueError(f"the database takes JSON of at most {JSON} characters")
    return encoded


def _checked(value: Any) -> Any:
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, str):
        return line(value, SENTENCE)
    if isinstance(value, list | tuple):
        return [_checked(each) for each in value]
    if isinstance(value, Mapping):
        return {line(key, NAME): _checked(each) for key, each in value.items()}
    raise RefusedValueError("the database takes JSON of text, numbers, lists and objects")
