"""Ways to answer one request other than the services would; see tests/fakes/cloud.py."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.fakes.cloud import Handler


def _keystone_error(status: int) -> bytes:
    return json.dumps({"error": {"code": status, "title": "title", "message": "message"}}).encode()


def refused(status: int, **headers: str) -> Callable[[Handler], None]:
    """Answer an error in the service's own form."""

    def fault(handler: Handler) -> None:
        keystone = handler.server.service == "keystone"
        barbican = json.dumps({"code": status, "title": "title", "description": "text"}).encode()
        handler.answer(status, _keystone_error(status) if keystone else barbican, **headers)

    return fault


def unauthorized(handler: Handler) -> None:
    """Answer 401 as keystonemiddleware does."""
    handler.answer(401, _keystone_error(401), WWW_Authenticate='Keystone uri="http://localhost/v3"')


def page(status: int, **headers: str) -> Callable[[Handler], None]:
    """Answer an HTML page, as a front end does."""
    return lambda handler: handler.answer(status, b"<html>sorry</html>", "text/html", **headers)


def content(body: bytes) -> Callable[[Handler], None]:
    """Answer 200 and any body."""
    return lambda handler: handler.answer(200, body)


def hanging(handler: Handler) -> None:
    """Never answer."""
    handler.server.cloud.released.wait()
    handler.close_connection = True


def dripping(handler: Handler) -> None:
    """Answer one byte at a time, for ever."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    while not handler.server.cloud.released.wait(0.1):
        handler.wfile.write(b" ")
        handler.wfile.flush()


def hanging_up(handler: Handler) -> None:
    """Close the connection without an answer."""
    handler.close_connection = True


def truncated(handler: Handler) -> None:
    """Announce more than is sent."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"name": "')
    handler.close_connection = True


def endless(handler: Handler) -> None:
    """Answer more than anybody wants, in chunks, so that no length warns of it."""
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    for _ in range(40):
        handler.wfile.write(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
    handler.wfile.write(b"0\r\n\r\n")


def lengthless(handler: Handler) -> None:
    """Answer without saying how long the body is."""
    handler.send_response(200)
    handler.send_header("Connection", "close")
    handler.end_headers()
    handler.wfile.write(b"{}")
    handler.close_connection = True


def compressed(handler: Handler) -> None:
    """Answer compressed although nobody asked."""
    handler.answer(200, b"x", Content_Encoding="gzip")
