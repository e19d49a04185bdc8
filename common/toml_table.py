"""Reading one TOML table strictly: every mistake is collected, with file and key, never with the value.

Each method of :class:`Table` takes a key, checks its value and returns it, or notes a mistake and returns the
default, so that one run tells everything that is wrong. :meth:`Table.finish` refuses the keys that nobody
asked for.
"""

from __future__ import annotations

import difflib
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from common import addresses
from common.errors import Mistake

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

_DURATION: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)(ms|s|m|h|d)")
_ACCOUNT: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}\$?")
_UNIT_S: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_SECRET_KEYS: Final = frozenset({"password", "secret", "application_credential_secret", "token", "api_key"})
MAX_WAIT_S: Final = 366 * 86400.0
"""The longest duration that any key takes: a year."""


def duration(text: str) -> float | None:
    """Return the seconds of ``500ms``, ``30s``, ``15m``, ``2h``, ``7d``, or None if it is none of these."""
    match = _DURATION.fullmatch(text)
    return float(match[1]) * _UNIT_S[match[2]] if match else None


def written(seconds: float) -> str:
    """Return a duration as one writes it in the file: ``30s``, ``15m``, ``366d``."""
    if 0 < seconds < 1:
        return f"{seconds * 1000:g}ms"
    unit, size = next(
        ((u, s) for u, s in (("d", 86400), ("h", 3600), ("m", 60)) if seconds and not seconds % s), ("s", 1)
    )
    return f"{seconds / size:g}{unit}"


def account(text: str) -> str | None:
    """Return the text if it can be the name of a user or a group (useradd(8))."""
    return text if _ACCOUNT.fullmatch(text) else None


def url(text: str) -> str | None:
    """Return a URL in its one form (common/addresses.py) if a credential may be sent there.

    That is HTTPS, or HTTP on loopback, without user, query and fragment.
    """
    address = addresses.parse(text)
    if address is None or (address.scheme != "https" and address.host not in _LOOPBACK):
        return None
    return str(address)


class Mistakes:
    """Everything that was found wrong so far in one file."""

    def __init__(self, path: Path) -> None:
        self._file = str(path)
        self.found: list[Mistake] = []

    def add(self, key: str, expected: str) -> None:
        """Note a mistake; ``expected`` says what is right there."""
        self.found.append(Mistake(self._file, key, expected))


class Table:
    """One table of the file. ``name`` is how it is written there, empty for the top level."""

    def __init__(self, untrusted_values: object, name: str, mistakes: Mistakes) -> None:
        self.name = name
        self.mistakes = mistakes
        self._asked: set[str] = set()
        self._values: dict[str, Any] = {}
        if isinstance(untrusted_values, dict):
            self._values = untrusted_values
        else:
            self.add("", f"must be a table, written [{name}]")

    def has(self, key: str) -> bool:
        """Return whether the key is written in the file."""
        self._asked.add(key)
        return key in self._values

    def where(self, key: str) -> str:
        """Return the key with its table, as an operator would look for it."""
        return f"{self.name}.{key}" if self.name and key else self.name or key

    def add(self, key: str, expected: str) -> None:
        """Note a mistake at a key of this table."""
        self.mistakes.add(self.where(key), expected)

    def checked(self, key: str, default: T, check: Callable[[Any], T | None], expected: str) -> T:
        """Return what ``check`` makes of the value; where it makes None, note a mistake."""
        if not self.has(key):
            return default
        value = check(self._values[key])
        if value is None:
            self.add(key, expected)
            return default
        return value

    def text(
        self, key: str, parse: Callable[[str], str | None] = lambda text: text or None, expected: str = ""
    ) -> str | None:
        """Return a string that ``parse`` accepts, or None where the key is absent or wrong."""
        return self.checked(
            key,
            None,
            lambda value: parse(value) if isinstance(value, str) and value.isprintable() else None,
            expected or "must be a text in one line that is not empty",
        )

    def required(self, key: str, parse: Callable[[str], str | None], expected: str) -> str:
        """Return a string that must be there."""
        if not self.has(key):
            self.add(key, f"is missing; {expected}")
            return ""
        return self.text(key, parse, expected) or ""

    def choice(self, key: str, default: str, choices: tuple[str, ...]) -> str:
        """Return one of ``choices``."""
        expected = f"must be one of {', '.join(choices)}"
        return self.text(key, lambda text: text if text in choices else None, expected) or default

    def boolean(self, key: str, *, default: bool) -> bool:
        """Return true or false."""
        return self.checked(
            key, default, lambda value: value if isinstance(value, bool) else None, "must be true or false"
        )

    def integer(self, key: str, default: int, least: int, most: int) -> int:
        """Return a whole number from ``least`` to ``most``."""

        def check(value: object) -> int | None:
            fits = isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
            return value if fits and isinstance(value, int) else None

        return self.checked(key, default, check, f"must be a whole number from {least} to {most}")

    def number(self, key: str, default: float, least: float, most: float) -> float:
        """Return a number from ``least`` to ``most``."""

        def check(value: object) -> float | None:
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                return None
            return float(value) if least <= value <= most else None

        return self.checked(key, default, check, f"must be a number from {least:g} to {most:g}")

    def seconds(
        self, key: str, default: float, least: float = 0.0, most: float = MAX_WAIT_S, *, never: bool = False
    ) -> float:
        """Return a duration in seconds, written with its unit."""

        def check(value: object) -> float | None:
            seconds = duration(value) if isinstance(value, str) else None
            return seconds if seconds is not None and least <= seconds <= most else None

        or_never = ' or "never"' if never else ""
        bounds = f"from {written(least)} to {written(most)}"
        expected = f'must be a duration such as "30s", "15m", "2h"{or_never}, {bounds}'
        return self.checked(key, default, check, expected)

    def seconds_or_never(self, key: str, default: float | None, least: float) -> float | None:
        """Return a duration in seconds, or None where ``"never"`` is written."""
        if self.has(key) and self._values[key] == "never":
            return None
        if default is None and not self.has(key):
            return None
        return self.seconds(key, default or 0.0, least, never=True)

    def path(self, key: str) -> Path | None:
        """Return an absolute path, or None."""

        def check(value: object) -> Path | None:
            good = isinstance(value, str) and value.startswith("/") and value.isprintable()
            return Path(str(value)) if good else None

        return self.checked(key, None, check, "must be an absolute path")

    def texts(self, key: str, parse: Callable[[str], str | None], expected: str) -> tuple[str, ...]:
        """Return a list of strings that ``parse`` accepts, at least one."""

        def check(value: object) -> tuple[str, ...] | None:
            if not isinstance(value, list) or not value:
                return None
            parsed = [parse(item) if isinstance(item, str) else None for item in value]
            return tuple(item for item in parsed if item) if all(parsed) else None

        if not self.has(key):
            self.add(key, f"is missing; {expected}")
            return ()
        return self.checked(key, (), check, expected)

    def table(self, key: str) -> Table:
        """Return a table inside this one, empty where it is not written."""
        return Table(self._values[key] if self.has(key) else {}, self.where(key), self.mistakes)

    def tables(self, key: str) -> Iterator[Table]:
        """Yield the tables of an array of tables, ``[[key]]``."""
        values = self._values[key] if self.has(key) else []
        if not isinstance(values, list):
            self.add(key, f"must be written [[{self.where(key)}]]")
            return
        for index, value in enumerate(values, start=1):
            yield Table(value, f"{self.where(key)} {index}", self.mistakes)

    def written(self) -> tuple[str, ...]:
        """Return the keys that are written in the file."""
        return tuple(self._values)

    def finish(self) -> None:
        """Refuse what nobody asked for: a key that has no effect is a mistake."""
        for key in self._values.keys() - self._asked:
            near = difflib.get_close_matches(key, self._asked, n=1)
            if key in _SECRET_KEYS and not self.name.startswith("grant"):  # there it is a typing error
                expected = "secrets don't belong into this file; name where it is with credential_file"
            elif near:
                expected = f"is not a key of this table; did you mean {near[0]}?"
            else:
                expected = "is not a key of this table"
            self.add(key if key.isprintable() else ascii(key), expected)
