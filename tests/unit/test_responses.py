"""How answers are written."""

from __future__ import annotations

import json
import re

from agent.core import errors
from agent.core.errors import METHOD_NOT_ALLOWED, Problem, RequestError
from agent.serve.http.responses import Response, field, head, problem_response


def test_every_problem_can_be_written() -> None:
    """With its status, its type and its length."""
    problems = [value for value in vars(errors).values() if isinstance(value, Problem)]
    assert len(problems) > 15
    for problem in problems:
        response = problem_response(RequestError(problem, "why", allow="GET", retry_after=0.2))
        written = head(response, closes=True).decode()
        assert written.startswith(f"HTTP/1.1 {problem.status} ")
        assert written.endswith("\r\n\r\n")
        assert f"\r\nContent-Length: {len(response.body)}\r\n" in written
        assert "\r\nAllow: GET\r\nRetry-After: 1\r\n" in written
        assert json.loads(response.body)["type"] == f"urn:vps-secrets:problem:{problem.type}"


def test_the_headers_of_all() -> None:
    """no-store, a date, and Connection: close only where it ends."""
    written = head(Response(200, field("ETag", '"x"'), b"abc"), closes=False).decode()
    assert '\r\nCache-Control: no-store\r\nServer: vps-secrets-agent\r\nETag: "x"\r\n' in written
    assert re.search(
        r"\r\nDate: (Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT\r\n", written
    )
    assert "Connection" not in written
    assert "\r\nConnection: close\r\n\r\n" in head(Response(200), closes=True).decode()


def test_what_has_no_content_tells_no_length() -> None:
    """RFC 9110, 8.6; a stream ends with its connection."""
    assert b"Content-Length" not in head(Response(204), closes=False)
    assert b"Content-Length" not in head(Response(304), closes=False)
    assert b"Content-Length" not in head(Response(200), closes=True, streams=True)
    assert b"\r\nContent-Length: 0\r\n" in head(Response(200), closes=False)


def test_a_detail_is_told_only_where_there_is_one() -> None:
    """So are the headers."""
    response = problem_response(RequestError(METHOD_NOT_ALLOWED))
    assert response.fields == "Content-Type: application/problem+json\r\n"
    assert "detail" not in json.loads(response.body)
