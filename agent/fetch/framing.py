"""Whether an HTTP answer can be known to be whole: RFC 9112, 6.3, and nothing that is only tolerated there.

Standard library only. A body ends where its Content-Length or its last chunk says so. One that ends where the
connection does is refused, since it may have been cut; so is one with both lengths, and one after which there
are more bytes than it announced.
"""

from __future__ import annotations

import email.errors
import http.client
import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

HEADERS: Final = ("Content-Length", "Transfer-Encoding")
_LENGTH: Final = re.compile(r"[0-9]{1,12}")
_HTTP_1_0: Final = 10
_OF_BODIES: Final = (  # the parser sees no body
    email.errors.CloseBoundaryNotFoundDefect,
    email.errors.MultipartInvariantViolationDefect,
    email.errors.NoBoundaryInMultipartDefect,
    email.errors.StartBoundaryNotFoundDefect,
)


class FramingError(http.client.HTTPException):
    """What came is not framed as an HTTP answer; the text says how, for people."""


class StrictResponse(http.client.HTTPResponse):
    """An answer whose headers were all understood, and after whose end there is nothing.

    Reading raises :class:`FramingError` otherwise. Bytes that arrive later than the answer are not seen here:
    whoever uses the connection again has to look whether it is silent.
    """

    def __init__(self, sock: socket.socket, *arguments: Any, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        self._socket: Final = sock

    def begin(self) -> None:
        """Read status and headers."""
        super().begin()
        # the parser stops at a line that is no header: what follows it, lengths too, would be lost
        if any(not isinstance(defect, _OF_BODIES) for defect in self.msg.defects):
            raise FramingError("a header of the answer is malformed")

    def _close_conn(self) -> None:
        """End the answer: http.client does so when its last byte was read, or the connection is given up."""
        begun = str(self.status).isdigit()  # http.client has a word there until there is a status line
        more = begun and not self.closed and self._more()
        super()._close_conn()  # type: ignore[misc]  # typeshed leaves it out
        if more:
            raise FramingError("more bytes came than the answer announced")

    def _more(self) -> bool:
        """Return whether there is a byte after the body that is here already."""
        timeout = self._socket.gettimeout()
        try:
            self._socket.settimeout(0)
            return bool(self.fp.peek(1))
        except (OSError, ValueError):
            return False
        finally:
            self._socket.settimeout(timeout)


def problem(headers: Mapping[str, str], version: int) -> str | None:
    """Return why the end of an answer with these headers can't be known, or None; ``version`` is 10 or 11."""
    length, encoding = headers.get("Content-Length"), headers.get("Transfer-Encoding")
    if encoding is not None:
        if length is not None:
            return "the answer has two lengths"
        chunked = encoding.strip().lower() == "chunked" and version > _HTTP_1_0
        return None if chunked else "the answer has a transfer coding that was not asked for"
    if length is None:
        return "the answer has no length, so it can't be known to be whole"
    return None if _LENGTH.fullmatch(length.strip()) else "the answer's length is not a number"
