"""The head of a request: what is one, what is refused, and that no input does anything else."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent.core import http
from agent.core.errors import (
    BAD_REQUEST,
    HEADERS_TOO_LARGE,
    URI_TOO_LONG,
    RequestError,
)

MOST = 16384
HOST = b"Host: a\r\n"


def head(line: bytes = b"GET /v1/secrets HTTP/1.1", fields: bytes = HOST) -> bytes:
    """Return a head."""
    return line + b"\r\n" + fields + b"\r\n"


def test_a_request_is_told_apart() -> None:
    """Method and target as they were sent, names in lower case, values without the space around them."""
    fields = b'Host:localhost\r\nIf-NONE-match: \t W/"x" \t\r\nX: \xa9\r\n'
    request = http.parse(head(b"BREW /v1/x?a=b HTTP/1.1", fields))
    assert (request.method, request.target, request.path) == ("BREW", "/v1/x?a=b", "/v1/x")
    assert request.fields == {"host": "localhost", "if-none-match": 'W/"x"', "x": "\xa9"}
    assert (request.closes, request.has_body) == (False, False)


def test_a_name_that_comes_twice_is_a_list() -> None:
    """RFC 9110, 5.3; but who the request is for and where it ends must be told once."""
    assert http.parse(head(fields=HOST + b"A: 1\r\na: 2\r\n")).fields["a"] == "1, 2"
    for twice in (HOST + HOST, HOST + b"Content-Length: 0\r\nContent-Length: 0\r\n"):
        with pytest.raises(RequestError) as caught:
            http.parse(head(fields=twice))
        assert caught.value.problem is BAD_REQUEST


@pytest.mark.parametrize(
    ("line", "field", "closes"),
    [
        (b"1.1", b"", False),
        (b"1.1", b"Connection: keep-alive\r\n", False),
        (b"1.1", b"Connection: keep-alive, Close\r\n", True),
        (b"1.1", b"Connection: x\r\nConnection: close\r\n", True),
        (b"1.0", b"", True),
        (b"1.0", b"Connection: keep-alive\r\n", True),
    ],
)
def test_who_wants_the_connection_closed(line: bytes, field: bytes, *, closes: bool) -> None:
    """And HTTP/1.0 always, which also needs no Host."""
    fields = field + (HOST if line == b"1.1" else b"")
    assert http.parse(head(b"GET / HTTP/" + line, fields)).closes is closes


@pytest.mark.parametrize(
    ("field", "has_body"),
    [
        (b"Content-Length: 0\r\n", False),
        (b"Content-Length: 000\r\n", False),
        (b"Content-Length: 1\r\n", True),
        (b"Content-Length: 99999999999999999999999999999999\r\n", True),
        (b"Transfer-Encoding: identity\r\n", True),
        (b"Transfer-Encoding:\r\n", True),
        (b"transfer-encoding: chunked\r\nContent-Length: 0\r\n", True),
    ],
)
def test_a_body_is_noticed(field: bytes, *, has_body: bool) -> None:
    """However it is announced."""
    assert http.parse(head(fields=HOST + field)).has_body is has_body


@pytest.mark.parametrize(
    "untrusted",
    [
        b"",
        b"\r\n\r\n",
        b"\r\n" + head(),
        head(b"GET  / HTTP/1.1"),
        head(b"GET / HTTP/1.1 "),
        head(b" GET / HTTP/1.1"),
        head(b"GET /a b HTTP/1.1"),
        head(b"GET /\x00 HTTP/1.1"),
        head(b"GET /\x7f HTTP/1.1"),
        head(b"GET /\xc3\xa9 HTTP/1.1"),
        head(b"G(T / HTTP/1.1"),
        head(b"GET / HTTP/1.2"),
        head(b"GET / HTTP/2.0"),
        head(b"GET / HTTP/01.1"),
        head(b"GET / http/1.1"),
        head(b"GET /"),
        head(fields=b""),  # no Host
        head(fields=HOST + b" folded\r\n"),
        head(fields=HOST + b"A: b\r\n\tfolded\r\n"),
        head(fields=HOST + b"A : b\r\n"),
        head(fields=HOST + b": b\r\n"),
        head(fields=HOST + b"A\r\n"),
        head(fields=HOST + b"A: \x00\r\n"),
        head(fields=HOST + b"A: b\rc\r\n"),
        head(fields=HOST + b"A: b\nC: d\r\n"),
        head(fields=HOST + b"Content-Length: -1\r\n"),
        head(fields=HOST + b"Content-Length: +1\r\n"),
        head(fields=HOST + b"Content-Length: 1, 1\r\n"),
        head(fields=HOST + b"Content-Length: \xb2\r\n"),
        head(fields=HOST + b"Content-Length:\r\n"),
        head() + b"x",
    ],
)
def test_what_is_not_well_formed_is_refused(untrusted: bytes) -> None:
    """Nothing is guessed."""
    with pytest.raises(RequestError) as caught:
        http.parse(untrusted)
    assert caught.value.problem is BAD_REQUEST


def test_the_number_of_fields_is_bounded() -> None:
    """A hundred are far more than any client sends."""
    assert len(http.parse(head(fields=HOST + b"".join(b"A%d:\r\n" % n for n in range(99)))).fields) == 100
    with pytest.raises(RequestError) as caught:
        http.parse(head(fields=HOST + b"A:\r\n" * 100))
    assert caught.value.problem is HEADERS_TOO_LARGE


@pytest.mark.parametrize(
    ("untrusted", "problem"),
    [
        (b"G" * 4097, URI_TOO_LONG),
        (b"GET /" + b"a" * 4092 + b"\r\n", URI_TOO_LONG),
        (head(b"GET /" + b"a" * 4092), URI_TOO_LONG),
        (head(fields=b"A: " + b"a" * MOST + b"\r\n"), HEADERS_TOO_LARGE),
        (b"GET / HTTP/1.1\r\n" + b"a" * MOST, HEADERS_TOO_LARGE),
        (b"GET / HTTP/1.1\n\n", BAD_REQUEST),
        (b"GET / HTTP/1.1\r\nHost: a\n", BAD_REQUEST),
    ],
)
def test_a_head_has_its_bounds(untrusted: bytes, problem: object) -> None:
    """Of the request line and of the whole, before it is all there."""
    with pytest.raises(RequestError) as caught:
        http.head_end(untrusted, MOST)
    assert caught.value.problem is problem


def test_the_largest_head_is_one() -> None:
    """To the byte."""
    exact = head(fields=HOST + b"A: " + b"a" * (MOST - len(head()) - 5) + b"\r\n")
    assert len(exact) == MOST
    assert http.head_end(exact + b"GET", MOST) == MOST
    longest = head(b"GET /" + b"a" * (4096 - 14) + b" HTTP/1.1")
    assert http.head_end(longest, MOST) == len(longest)


@given(st.binary(max_size=200))
@example(head())
@example(head(fields=HOST + b"A: b\r\n"))
def test_any_bytes_are_a_request_or_refused(untrusted: bytes) -> None:
    """And a request's parts have only the characters that they may have."""
    try:
        request = http.parse(untrusted)
    except RequestError:
        return
    assert request.target.isascii()
    assert request.target.isprintable()
    assert " " not in request.method + request.target
    assert not any(set("\r\n\0") & set(value) for value in request.fields.values())


_LINES = st.lists(
    st.sampled_from([b"GET / HTTP/1.1", b"Host: a", b"A:b", b"", b" x", b"\n", b"\r", b"Content-Length: 3"]),
    max_size=8,
)


@given(_LINES, st.integers(0, 60))
def test_a_head_ends_at_the_same_byte_however_it_comes(lines: list[bytes], cut: int) -> None:
    """What has come can only be too little: an end that was found is never moved by what follows."""
    whole = b"\r\n".join(lines) + b"\r\n\r\n"

    def ends(untrusted: bytes) -> int:
        try:
            return http.head_end(untrusted, MOST)
        except RequestError:
            return -1

    assert ends(whole[:cut]) in {0, -1, ends(whole)}
