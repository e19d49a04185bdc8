"""The target of a request: path and query as they were sent, parsed strictly.

Nothing is percent-decoded: every path and parameter of ours is plain ASCII, so an encoded one is a mistake
or an attempt, and it is refused before any look-up.
"""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from agent.core.errors import BAD_NAME, BAD_PARAMETER, BAD_REQUEST, METHOD_NOT_ALLOWED, RequestError
from agent.core.http import is_host
from common.names import SecretName, parse_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.core.http import Request

MAX_DIGITS: Final = 15
"""Of a number that is sent; a generation has 13, until the year 2286."""
_NO_PARAMETERS: Final[Mapping[str, str]] = MappingProxyType({})


class Target:
    """Path and parameters. :meth:`allow` refuses every parameter that a path does not have."""

    __slots__ = ("_parameters", "method", "path")

    def __init__(self, request: Request) -> None:
        untrusted_target = request.target
        if untrusted_target[:7].lower() == "http://":  # absolute-form: a MUST of RFC 9112, 3.2.2
            authority, slash, rest = untrusted_target[7:].partition("/")
            if not (authority and slash and is_host(authority)):
                raise RequestError(BAD_REQUEST, "the request target names no host and path")
            untrusted_target = slash + rest
        untrusted_path, _, untrusted_query = untrusted_target.partition("?")
        if not untrusted_path.startswith("/"):
            raise RequestError(BAD_REQUEST, "the request target must be a path")
        self.path = untrusted_path
        self.method = request.method
        self._parameters = _split(untrusted_query) if untrusted_query else _NO_PARAMETERS

    def allow(self, method: str, *parameters: str, head: bool = False) -> None:
        """Refuse another method, and parameters that this path does not have; ``head`` allows HEAD too."""
        if self.method != method and not (head and self.method == "HEAD"):
            allowed = f"{method}, HEAD" if head else method
            raise RequestError(METHOD_NOT_ALLOWED, f"use {allowed}", allow=allowed)
        if self._parameters and not self._parameters.keys() <= set(parameters):
            known = f"this path has {', '.join(parameters)}" if parameters else "this path has none"
            raise RequestError(BAD_PARAMETER, known)

    def text(self, key: str) -> str | None:
        """Return a parameter as it was sent, or None."""
        return self._parameters.get(key)

    def whole(self, key: str) -> int | None:
        """Return a parameter as a whole number that is not negative, or None."""
        value = self._parameters.get(key)
        return None if value is None else whole(key, value)

    def seconds(self, key: str, default: float, most: float) -> float:
        """Return a parameter as seconds, at most ``most``."""
        value = self._parameters.get(key)
        if value is None:
            return min(default, most)
        try:
            seconds = float(value) if value.isascii() else math.nan
        except ValueError:
            seconds = math.nan
        if not 0 <= seconds < math.inf:
            raise RequestError(BAD_PARAMETER, f"{key} must be a number of seconds")
        return min(seconds, most)


def _split(untrusted_query: str) -> dict[str, str]:
    parameters: dict[str, str] = {}
    for pair in untrusted_query.split("&"):
        key, equals, value = pair.partition("=")
        if not equals or key in parameters:
            raise RequestError(BAD_PARAMETER, "parameters are written key=value, each once")
        parameters[key] = value
    return parameters


def whole(key: str, untrusted_value: str) -> int:
    """Return a whole number that was sent as ``key``.

    Raises:
        RequestError: BAD_PARAMETER, with what it must be.
    """
    if not (untrusted_value.isascii() and untrusted_value.isdigit() and len(untrusted_value) <= MAX_DIGITS):
        raise RequestError(BAD_PARAMETER, f"{key} must be a whole number")
    return int(untrusted_value)


def name_of(untrusted_name: str) -> SecretName:
    """Return a name that was sent.

    Raises:
        RequestError: BAD_NAME, with what a name is.
    """
    name = parse_name(untrusted_name)
    if name is None:
        raise RequestError(BAD_NAME, "a name is [A-Za-z0-9][A-Za-z0-9._-]{0,199}, without the VPS id")
    return name
