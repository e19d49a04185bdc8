"""What a door says to a request, and how that is written: JSON, RFC 9457 problems, the headers of all."""

from __future__ import annotations

import functools
import json
import time
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from agent.serve.host.audit import Record

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine

    from agent.core.errors import RequestError

_REASONS: Final = {
    200: "OK",
    204: "No Content",
    304: "Not Modified",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    413: "Content Too Large",
    414: "URI Too Long",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    502: "Bad Gateway",
    503: "Service Unavailable",
}
_COMMON: Final = "Cache-Control: no-store\r\nServer: vps-secrets-agent\r\n"
_WITHOUT_CONTENT: Final = frozenset({204, 304})  # RFC 9110, 15.3.5 and 15.4.5
_CLOSES: Final = "Connection: close\r\n"


class Response(NamedTuple):
    """An answer. ``fields`` are its own header lines, made with :func:`field`."""

    status: int
    fields: str = ""
    body: bytes = b""


class Answer(NamedTuple):
    """What a door says to one request: an audit record, then a response, or the parts of a stream.

    ``closes`` ends the connection after it.
    """

    record: Record
    response: Response
    stream: AsyncGenerator[bytes, None] | None = None
    closes: bool = False


class DeferredAnswer(NamedTuple):
    """An answer that takes its time; it may lead to another one that does.

    ``for_listener``: it has no use once the caller closes its half. ``unheard`` is the record where the
    caller leaves before it; None says that there was nothing to tell until then.
    """

    answer: Callable[[], Coroutine[None, None, Said]]
    for_listener: bool = False
    unheard: Record | None = None


Said: TypeAlias = "Answer | DeferredAnswer"


def field(name: str, value: str) -> str:
    """Return a header line; a value never holds a line end: it is ours, or checked where it came in."""
    return f"{name}: {value}\r\n"


def json_response(content: object, fields: str = "") -> Response:
    """Return a JSON answer."""
    body = json.dumps(content, ensure_ascii=False).encode()
    return Response(200, f"Content-Type: application/json\r\n{fields}", body)


def refusal_record(action: str, error: RequestError) -> Record:
    """Return the record of a request that is refused."""
    problem = error.problem
    return Record(problem.outcome, problem.status, action, dict.fromkeys(error.names), reason=problem.type)


def problem_response(error: RequestError) -> Response:
    """Return an RFC 9457 answer."""
    problem = error.problem
    content: dict[str, object] = {
        "type": f"urn:vps-secrets:problem:{problem.type}",
        "title": problem.title,
        "status": problem.status,
    }
    if error.detail:
        content["detail"] = error.detail
    fields = "Content-Type: application/problem+json\r\n"
    if error.allow:
        fields += field("Allow", error.allow)
    if error.retry_after is not None:
        fields += field("Retry-After", str(max(1, round(error.retry_after))))
    return Response(problem.status, fields, json.dumps(content | error.members).encode())


def head(response: Response, *, closes: bool, streams: bool = False) -> bytes:
    """Return an answer's head; a stream ends where the connection does (RFC 9112, 6.3)."""
    status = response.status
    length = "" if streams or status in _WITHOUT_CONTENT else f"Content-Length: {len(response.body)}\r\n"
    return (
        f"HTTP/1.1 {status} {_REASONS[status]}\r\n{_date(int(time.time()))}{_COMMON}{response.fields}"
        f"{length}{_CLOSES if closes else ''}\r\n"
    ).encode()


@functools.lru_cache(maxsize=1)
def _date(second: int) -> str:
    """Return the line that RFC 9110, 6.6.1 wants; made once in a second."""
    return time.strftime("Date: %a, %d %b %Y %H:%M:%S GMT\r\n", time.gmtime(second))
