"""Ways to answer one request other than the services would; for the fake cloud and for the proxy."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TypeAlias

from lab.testbed.fakes.handler import AnsweringHandler

Fault: TypeAlias = Callable[[AnsweringHandler], None]


def _keystone_error(status: int) -> bytes:
    return json.dumps({"error": {"code": status, "title": "title", "message": "message"}}).encode()


def refused(status: int, **headers: str) -> Fault:
    """Answer an error in the service's own form."""

    def fault(handler: AnsweringHandler) -> None:
        keystone = handler.service == "keystone"
        barbican = json.dumps({"code": status, "title": "title", "description": "text"}).encode()
        handler.answer(status, _keystone_error(status) if keystone else barbican, **headers)

    return fault


def unauthorized(handler: AnsweringHandler) -> None:
    """Answer 401 as keystonemiddleware does."""
    handler.answer(401, _keystone_error(401), WWW_Authenticate='Keystone uri="http://localhost/v3"')


def page(status: int, **headers: str) -> Fault:
    """Answer an HTML page, as a front end does."""
    return lambda handler: handler.answer(status, b"<html>sorry</html>", "text/html", **headers)


def content(body: bytes, kind: str = "", status: int = 0, **headers: str) -> Fault:
    """Answer any body, with the status and the type of a success unless others are given."""

    def fault(handler: AnsweringHandler) -> None:
        success = 201 if handler.command == "POST" else 200
        octets = "application/octet-stream" if handler.path.endswith("/payload") else "application/json"
        handler.answer(status or success, body, kind or octets, **headers)

    return fault


def hanging(handler: AnsweringHandler) -> None:
    """Never answer."""
    handler.released.wait()
    handler.close_connection = True


def dripping(handler: AnsweringHandler) -> None:
    """Answer one byte at a time, for ever."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    while not handler.released.wait(0.1):
        handler.wfile.write(b" ")
        handler.wfile.flush()


def hanging_up(handler: AnsweringHandler) -> None:
    """Close the connection without an answer."""
    handler.close_connection = True


def raw(*lines: bytes, body: bytes = b"") -> Fault:
    """Answer these very bytes: status line and headers without their ends, then the body; then hang up."""

    def fault(handler: AnsweringHandler) -> None:
        handler.wfile.write(b"".join(line + b"\r\n" for line in (*lines, b"")) + body)
        handler.close_connection = True

    return fault


def truncated(handler: AnsweringHandler) -> None:
    """Announce more than is sent."""
    handler.send_response(201 if handler.command == "POST" else 200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"name": "')
    handler.close_connection = True


def endless(handler: AnsweringHandler) -> None:
    """Answer more than anybody wants, in chunks, so that no length warns of it."""
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    for _ in range(40):
        handler.wfile.write(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
    handler.wfile.write(b"0\r\n\r\n")


def lengthless(handler: AnsweringHandler) -> None:
    """Answer without saying how long the body is."""
    handler.send_response(200)
    handler.send_header("Connection", "close")
    handler.end_headers()
    handler.wfile.write(b"{}")
    handler.close_connection = True


def compressed(handler: AnsweringHandler) -> None:
    """Answer compressed although nobody asked."""
    handler.answer(200, b"x", Content_Encoding="gzip")
