"""Answers of the doors: JSON, RFC 9457 problems, and the headers that all of them carry."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from aiohttp import web
from multidict import istr

if TYPE_CHECKING:
    from agent.core.errors import Problem, RequestError

Headers = tuple[tuple[str, str], ...]

# istr: multidict then has no case to fold on the way of every read
AGE: Final = istr("Age")
CONTENT_TYPE: Final = istr("Content-Type")
ETAG: Final = istr("ETag")
GENERATION: Final = istr("Secrets-Generation")
IF_NONE_MATCH: Final = istr("If-None-Match")
STALE: Final = istr("Secrets-Stale")
_COMMON: Final = ((istr("Cache-Control"), "no-store"), (istr("Server"), "vps-secrets-agent"))


def headers(*more: tuple[str, str]) -> Headers:
    """Return the headers of every answer and ``more``."""
    return _COMMON + more


def json_response(content: object, more: Headers = _COMMON) -> web.Response:
    """Return a JSON answer; ``more`` are its headers, made with :func:`headers`."""
    body = json.dumps(content, ensure_ascii=False).encode()
    return web.Response(body=body, headers=more, content_type="application/json")


def problem_response(error: RequestError) -> web.Response:
    """Return an RFC 9457 answer."""
    problem = error.problem
    content: dict[str, object] = {
        "type": f"urn:vps-secrets:problem:{problem.type}",
        "title": problem.title,
        "status": problem.status,
    }
    if error.detail:
        content["detail"] = error.detail
    response = web.Response(
        status=problem.status,
        body=json.dumps(content | error.members).encode(),
        headers=headers(),
        content_type="application/problem+json",
    )
    if error.allow:
        response.headers["Allow"] = error.allow
    if error.retry_after is not None:
        response.headers["Retry-After"] = str(max(1, round(error.retry_after)))
    return response


def raw_problem(problem: Problem) -> bytes:
    """Return an answer for a connection that never gets to the HTTP server."""
    body = json.dumps(
        {"type": f"urn:vps-secrets:problem:{problem.type}", "title": problem.title, "status": problem.status}
    )
    lines = (
        f"HTTP/1.1 {problem.status} Refused",
        "Content-Type: application/problem+json",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        "Connection: close",
        "",
        body,
    )
    return "\r\n".join(lines).encode()
