r"""A ``.env`` file, as Node's dotenv and the shells that people write it for read it. Pure.

Quotes may hold several lines; in double quotes ``\\n`` is a line feed; a value without quotes ends at `` #``;
what has a # without the blank is refused, since programs differ there; ``export `` is left out, and so are a
byte order mark and CR before LF; of a name that comes twice the last one counts. ``${NAME}`` is not expanded,
and a warning says so.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from common.names import parse_name

MAX_BYTES: Final = 1024 * 1024
_LINE: Final = re.compile(
    r"""
    [ \t]*(?:export[ \t]+)?(?P<name>[^\s=:#'"]+)[ \t]*(?:=|:[ \t])[ \t]*
    (?:
        '(?P<single>[^']*)' | "(?P<double>(?:\\.|[^"\\])*)" | `(?P<back>[^`]*)`
      | (?P<plain>[^\n#'"`](?:[^\n#]|(?<=\S)\#)*)?
    )
    [ \t]*(?:\#[^\n]*)?(?:\n|\Z)
    """,
    re.VERBOSE | re.DOTALL,
)
_BLANK: Final = re.compile(r"[ \t]*(?:#[^\n]*)?(?:\n|\Z)")
_REFERENCE: Final = re.compile(r"\$\{?[A-Za-z_]")
_ESCAPES: Final = {"n": "\n", "r": "\r", "t": "\t"}


@dataclass(frozen=True, slots=True)
class Dotenv:
    """What a file says. ``values`` are never shown; the remarks name lines and names only."""

    values: dict[str, bytes] = field(repr=False)
    mistakes: tuple[str, ...]
    """Why it can't be used: each with the number of its line."""
    warnings: tuple[str, ...]


def parse(content: bytes) -> Dotenv:
    """Return what a file says, with all that is wrong in it."""
    values: dict[str, bytes] = {}
    mistakes: list[str] = []
    warnings: list[str] = []
    if len(content) > MAX_BYTES:
        return Dotenv({}, (f"the file is larger than {MAX_BYTES} bytes",), ())
    try:
        text = content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError:
        return Dotenv({}, ("the file is not UTF-8 text",), ())
    at = 0
    while at < len(text):
        number = text.count("\n", 0, at) + 1
        if (blank := _BLANK.match(text, at)) is not None:
            at = max(blank.end(), at + 1)
            continue
        line = _LINE.match(text, at)
        if line is None:
            mistakes.append(f"line {number}: is neither NAME=VALUE nor a comment, or a quote is not closed")
            at = text.find("\n", at) + 1 or len(text)
            continue
        at = line.end()
        if (wrong := _wrong(line)) is not None:
            mistakes.append(f"line {number}: {wrong}")
            continue
        name, value = line["name"], _value(line)
        if name in values:
            warnings.append(f"line {number}: {name} was there before; the last one counts")
        if line["single"] is None and _REFERENCE.search(value):
            warnings.append(f"line {number}: {name} seems to use another variable; it is taken as it stands")
        if value:
            values[name] = value.encode()
        else:
            warnings.append(f"line {number}: {name} is empty, and is left out")
            values.pop(name, None)
    return Dotenv(values, tuple(mistakes), tuple(warnings))


def _wrong(line: re.Match[str]) -> str | None:
    if parse_name(line["name"]) is None:
        return "the name before = is not one that a secret can have"
    if "#" in (line["plain"] or ""):
        return "# in a value without quotes, which programs read differently: put quotes around it"
    return None


def _value(line: re.Match[str]) -> str:
    if line["double"] is not None:
        return re.sub(
            r"\\(.)", lambda found: _ESCAPES.get(found[1], found[1]), line["double"], flags=re.DOTALL
        )
    for quoted in ("single", "back"):
        if line[quoted] is not None:
            return str(line[quoted])
    return (line["plain"] or "").rstrip()
