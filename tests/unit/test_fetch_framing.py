"""agent/fetch/framing.py: what RFC 9112, 6.3 lets an answer's end be, over real sockets."""

from __future__ import annotations

import http.client
import socket
from typing import TYPE_CHECKING

import pytest

from agent.fetch import framing

if TYPE_CHECKING:
    from collections.abc import Iterator

OK = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A server's and a client's end of one connection."""
    server, client = socket.socketpair()
    client.settimeout(10)
    with server, client:
        yield server, client


def read(ends: tuple[socket.socket, socket.socket], answer: bytes, *, hangs_up: bool = False) -> bytes:
    """Return what the body is taken for."""
    ends[0].sendall(answer)
    if hangs_up:
        ends[0].shutdown(socket.SHUT_WR)
    response = framing.StrictResponse(ends[1], method="GET")
    response.begin()
    body = b""
    while part := response.read(65536):
        body += part
    return body


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"Content-Length: 5\r\n\r\nhello",
        OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nTrailer: x\r\n\r\n",
    ],
)
def test_an_answer_that_is_whole(ends: tuple[socket.socket, socket.socket], answer: bytes) -> None:
    """Its connection stays open, and nobody waits for more."""
    assert read(ends, answer) == b"hello"
    assert ends[1].gettimeout() == 10


@pytest.mark.parametrize("size", [5, 50_000])
@pytest.mark.parametrize("chunked", [False, True])
def test_more_bytes_than_announced(
    ends: tuple[socket.socket, socket.socket], size: int, *, chunked: bool
) -> None:
    """A value that ends too early, or the beginning of an answer to nobody."""
    body = b"x" * size
    head = (
        b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % size
        if chunked
        else b"Content-Length: %d\r\n\r\n" % size
    )
    tail = b"\r\n0\r\n\r\n" if chunked else b""
    assert read(ends, OK + head + body + tail) == body
    with pytest.raises(framing.FramingError, match="more bytes"):
        read(ends, OK + head + body + tail + b"y")


def test_fewer_bytes_than_announced(ends: tuple[socket.socket, socket.socket]) -> None:
    """Chunks are cut off by their own rule; a length is compared by whoever reads."""
    with pytest.raises(http.client.IncompleteRead):
        read(ends, OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", hangs_up=True)


@pytest.mark.parametrize(
    "header", [b"no colon", b"Space : x", b": no name", b"\xff: x", b"Content-Type text/plain"]
)
def test_a_malformed_header(ends: tuple[socket.socket, socket.socket], header: bytes) -> None:
    """The standard library's parser drops what follows such a line, which may be the lengths."""
    answer = (
        OK
        + b"Content-Length: 5\r\n"
        + header
        + b"\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    )
    with pytest.raises(framing.FramingError):
        read(ends, answer)


@pytest.mark.parametrize(
    ("headers", "version", "known"),
    [
        ({"Content-Length": "0"}, 11, True),
        ({"Content-Length": "12"}, 10, True),
        ({"Content-Length": " 12 "}, 11, True),
        ({"Transfer-Encoding": "chunked"}, 11, True),
        ({"Transfer-Encoding": "Chunked "}, 11, True),
        ({}, 11, False),
        ({}, 10, False),
        ({"Content-Length": "12", "Transfer-Encoding": "chunked"}, 11, False),
        ({"Transfer-Encoding": "chunked"}, 10, False),
        ({"Transfer-Encoding": "gzip, chunked"}, 11, False),
        ({"Transfer-Encoding": "chunked, chunked"}, 11, False),
        ({"Transfer-Encoding": "identity"}, 11, False),
        ({"Transfer-Encoding": ""}, 11, False),
        *(
            ({"Content-Length": bad}, 11, False)
            for bad in ("", "-1", "+1", "1_0", "0x10", "5, 5", "5, 6", "1e3", "²")
        ),
    ],
)
def test_which_ends_can_be_known(headers: dict[str, str], version: int, *, known: bool) -> None:
    """One length in one form, or chunks; never the end of the connection."""
    assert (framing.problem(headers, version) is None) is known
