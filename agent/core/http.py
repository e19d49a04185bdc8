"""What a request on a socket of ours may be: the head of an HTTP/1.1 message (RFC 9112), and no body.

Pure, and strict: bare line feeds, folded lines, spaces before a colon, control characters and other versions
are refused. Without bodies nothing else frames a message, so two readers can't differ on where one ends.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Final, NamedTuple

from agent.core.errors import BAD_REQUEST, HEADERS_TOO_LARGE, URI_TOO_LONG, RequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_LINE: Final = 4096
"""Bytes of a request line: the longest name and every parameter take less than a tenth of it."""
MAX_FIELDS: Final = 100
SHORT: Final = 1024
"""Heads of at most so many bytes are remembered, the latest 256 of them."""

_TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]++"  # RFC 9110, 5.6.2; possessive: nothing is tried twice
_HEAD: Final = re.compile(
    rb"(" + _TOKEN + rb") ([!-~]++) HTTP/1\.([01])\r\n((?:" + _TOKEN + rb":[\t -~\x80-\xff]*+\r\n)*+)\r\n"
)


_HOST: Final = re.compile(
    r"(?:\[[0-9A-Fa-fvV:.]{2,60}\]|(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2}){1,255})(?::[0-9]{0,5})?"
)


def is_host(untrusted: str) -> bool:
    """Return whether this is a host with or without a port (RFC 9110, 7.2; RFC 3986, 3.2.2)."""
    return _HOST.fullmatch(untrusted) is not None


class Request(NamedTuple):
    """A request's head. ``fields`` have lower-case names; a name that came twice has both values in a list.

    ``closes`` tells that the connection ends with the answer. Whoever sends a body has its answer only.
    """

    method: str
    target: str
    fields: Mapping[str, str]
    closes: bool
    has_body: bool

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]


def head_end(untrusted: bytes, most: int) -> int:
    """Return how many bytes the first request's head takes; 0 where it is not all there yet.

    Raises:
        RequestError: its first line is too long, it has more than ``most`` bytes, or no line end of HTTP's.
    """
    end = untrusted.find(b"\r\n\r\n") + 4
    if untrusted.find(b"\r\n", 0, MAX_LINE + 2) < 0 and len(untrusted) > MAX_LINE:
        raise RequestError(URI_TOO_LONG)
    if (end if end > 3 else len(untrusted)) > most:  # noqa: PLR2004  # 3: not found
        raise RequestError(HEADERS_TOO_LARGE)
    if end > 3:  # noqa: PLR2004
        return end
    if untrusted.count(b"\n") != untrusted.count(b"\r\n"):
        raise RequestError(BAD_REQUEST, "lines end with CR LF")
    return 0


def parse(untrusted_head: bytes) -> Request:
    """Return the request with this head, which is one to the byte.

    A client asks with the same head again and again, so short ones are remembered; there is no secret in any.

    Raises:
        RequestError: it is not well-formed, or has too many fields.
    """
    return (_remembered if len(untrusted_head) <= SHORT else _parse)(untrusted_head)


def _parse(untrusted_head: bytes) -> Request:
    match = _HEAD.fullmatch(untrusted_head)
    if match is None:
        raise RequestError(BAD_REQUEST)
    method, target, minor, lines = match.groups()
    fields = _fields(lines)
    if minor == b"1" and "host" not in fields:
        raise RequestError(BAD_REQUEST, "HTTP/1.1 wants a Host")
    if fields.get("host") and not is_host(fields["host"]):
        raise RequestError(BAD_REQUEST, "the Host is none")
    length = fields.get("content-length", "0")
    if not (length.isascii() and length.isdigit()):
        raise RequestError(BAD_REQUEST)
    connection = fields.get("connection", "")
    return Request(
        method.decode("ascii"),
        target.decode("ascii"),
        fields,
        minor == b"0" or (connection != "" and "close" in _listed(connection)),
        "transfer-encoding" in fields or length.strip("0") != "",
    )


_remembered: Final = functools.lru_cache(maxsize=256)(_parse)


def _fields(untrusted_lines: bytes) -> dict[str, str]:
    lines = untrusted_lines.decode("latin-1").split("\r\n")
    if len(lines) > MAX_FIELDS + 1:
        raise RequestError(HEADERS_TOO_LARGE)
    fields: dict[str, str] = {}
    for line in lines[:-1]:
        name, _, value = line.partition(":")
        name, value = name.lower(), value.strip(" \t")
        if name in fields:
            if name in {"host", "content-length"}:
                raise RequestError(BAD_REQUEST)
            value = f"{fields[name]}, {value}"
        fields[name] = value
    return fields


def _listed(value: str) -> set[str]:
    return {part.strip(" \t") for part in value.lower().split(",")}
