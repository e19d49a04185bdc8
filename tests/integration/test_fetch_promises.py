"""The real fetch program and answers that are no success, though their status is below 300.

For every call of a cycle: only what its API promises is taken. All else is malformed: what is listed stays
listed, a version that was not read is read again, and no page of a proxy becomes a secret.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from agent.core.errors import Fault, Step
from agent.core.rotation import Unread
from common.names import Version
from lab.testbed.fakes import faults
from lab.testbed.fakes.cloud import VPS, FakeCloud, Handler
from lab.testbed.fakes.fetching import configure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from lab.testbed.fakes.faults import Fault as Broken
    from lab.testbed.fakes.handler import AnsweringHandler

PAGE = b"<html><form action=/login>Welcome to the guest network</form></html>"
CALLS = ("keystone", "/containers/", "/v1/secrets?", "metadata", "/payload")


@pytest.fixture
def cloud() -> Iterator[FakeCloud]:
    """A healthy cloud."""
    with FakeCloud() as made:
        yield made


def real(cloud: FakeCloud, change: Callable[[AnsweringHandler, int, bytes, str], None]) -> Broken:
    """Return a fault that has the real answer in its hands: status, body and type."""

    def fault(handler: AnsweringHandler) -> None:
        assert isinstance(handler, Handler)
        taken: list[tuple[int, bytes, str, dict[str, str]]] = []

        def take(status: int, body: bytes, kind: str = "application/json", **headers: str) -> None:
            taken.append((status, body, kind, headers))

        handler.answer = take  # type: ignore[method-assign]  # of this one request
        (cloud.keystone if handler.service == "keystone" else cloud.barbican)(handler)
        del handler.answer
        status, body, kind, headers = taken[0]
        token = headers.get("X_Subject_Token", "")
        handler.real_headers = {"X-Subject-Token": token} if token else {}  # type: ignore[attr-defined]
        change(handler, status, body, kind)

    return fault


def sends(handler: AnsweringHandler, status: int, body: bytes, *headers: tuple[str, str]) -> None:
    """Send exactly these headers and then this body, and hang up."""
    handler.send_response(status)
    for name, value in (*headers, *handler.real_headers.items()):  # type: ignore[attr-defined]
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)
    handler.close_connection = True


def typed(kind: str) -> Callable[[AnsweringHandler, int, bytes, str], None]:
    """Give the real body as another type; none where it is empty."""

    def change(handler: AnsweringHandler, status: int, body: bytes, _: str) -> None:
        types = (("Content-Type", kind),) if kind else ()
        sends(handler, status, body, ("Content-Length", str(len(body))), *types)

    return change


def status_of(status: int) -> Callable[[AnsweringHandler, int, bytes, str], None]:
    """Give the real body with another status."""

    def change(handler: AnsweringHandler, _: int, body: bytes, kind: str) -> None:
        sends(handler, status, body, ("Content-Length", str(len(body))), ("Content-Type", kind))

    return change


def framed(
    *headers: tuple[str, str], wrap: str = "%s"
) -> Callable[[AnsweringHandler, int, bytes, str], None]:
    """Give the real body with these headers for its length, ``{}`` for the true one, perhaps wrapped."""

    def change(handler: AnsweringHandler, status: int, body: bytes, kind: str) -> None:
        lengths = tuple((name, value.format(len(body))) for name, value in headers)
        before, after = (part.encode() for part in wrap.split("%s"))
        before = before.replace(b"HEX", b"%x" % len(body))
        sends(handler, status, before + body + after, *lengths, ("Content-Type", kind))

    return change


def cut(by: int) -> Callable[[AnsweringHandler, int, bytes, str], None]:
    """Announce so many bytes more than come (fewer, where negative)."""

    def change(handler: AnsweringHandler, status: int, body: bytes, kind: str) -> None:
        sends(handler, status, body, ("Content-Length", str(len(body) + by)), ("Content-Type", kind))

    return change


LENGTH, CHUNKED = ("Content-Length", "{}"), ("Transfer-Encoding", "chunked")
MALFORMED = {
    "html": typed("text/html"),
    "plain text": typed("text/plain; charset=utf-8"),
    "no type": typed(""),
    "any type": typed("*/*"),
    "byte ranges": typed("multipart/byteranges; boundary=x"),
    "202": status_of(202),
    "203": status_of(203),
    "204": status_of(204),
    "206": status_of(206),
    "299": status_of(299),
    "100, then nothing": status_of(103),
    "no length": framed(),
    "two lengths": framed(LENGTH, ("Content-Length", "1")),
    "length and chunks": framed(LENGTH, CHUNKED),
    "another coding": framed(("Transfer-Encoding", "gzip, chunked")),
    "a length that is none": framed(("Content-Length", "+{}")),
    "chunks cut off": framed(CHUNKED, wrap="HEX\r\n%s\r\n"),
    "a chunk size that is none": framed(CHUNKED, wrap="-5\r\n%s\r\n0\r\n\r\n"),
    "cut off": cut(1),
    "cut off early": cut(10_000),
    "more than announced": cut(-3),
    "compressed": framed(LENGTH, ("Content-Encoding", "gzip")),
    "a malformed header": framed(LENGTH, ("no colon\r\nX", "x")),
}


def fault_at(cloud: FakeCloud, call: str, version: str, fault: Broken) -> None:
    """Have one call of a cycle answered so."""
    if call == "metadata":
        cloud.faults[version] = only(cloud, fault)
    else:
        cloud.faults[f"{version}/payload" if call == "/payload" else call] = fault


def only(cloud: FakeCloud, fault: Broken) -> Broken:
    """Return a fault of all but payloads."""

    def broken(handler: AnsweringHandler) -> None:
        assert isinstance(handler, Handler)
        (cloud.barbican if handler.path.endswith("/payload") else fault)(handler)

    return broken


OF_ALL = ("html", "206", "no length", "length and chunks", "cut off", "more than announced")


@pytest.mark.parametrize(
    ("call", "what"),
    [*(("/payload", what) for what in MALFORMED), *((call, what) for call in CALLS[:-1] for what in OF_ALL)],
)
def test_what_is_not_promised_is_no_success(cloud: FakeCloud, tmp_path: Path, call: str, what: str) -> None:
    """The cycle fails or the version is unread; then the service is well again, and it is read."""
    bad, good = cloud.add(f"{VPS}/A"), cloud.add(f"{VPS}/B")
    fault_at(cloud, call, bad.version, real(cloud, MALFORMED[what]))
    fetch = configure(cloud, tmp_path, "[fetch]\nlist_metadata = true\n" if call == "/v1/secrets?" else "")
    ran = fetch()
    if call in {"keystone", "/containers/"}:
        assert ran.failure.fault is Fault.TRANSIENT
        assert ran.failure.step is (Step.KEYSTONE if call == "keystone" else Step.BARBICAN)
    elif call == "/v1/secrets?":
        assert ran.reply.listed is False
        assert len(ran.reading.read) == 2
    else:
        assert ran.reading.unread == {bad.version: Unread.FAILED}
        assert list(ran.reading.read) == [good.version]
        assert {entry.version for entry in ran.reading.entries} == {bad.version, good.version}
        assert ran.reply.notices[0].startswith(f"{VPS}/A was not read: ")
    assert not ran.leaks(cloud.canaries)
    assert ran.reply.calls["keystone" if call == "keystone" else "barbican"]["failed"] >= 1
    if what not in OF_ALL:
        return
    cloud.faults.clear()
    known = frozenset(ran.reading.read) if ran.reply.reading else frozenset[Version]()
    again = fetch(known=known)
    assert {*known, *again.reading.read} == {bad.version, good.version}
    assert not again.reading.unread


@pytest.mark.parametrize("status", [200, 206])
@pytest.mark.parametrize("kind", ["text/html", "application/octet-stream"])
def test_a_page_of_a_proxy_is_no_secret(cloud: FakeCloud, tmp_path: Path, kind: str, status: int) -> None:
    """With the right type and status nothing can tell; with either wrong it is refused."""
    made = cloud.add(f"{VPS}/JWT_SECRET")
    cloud.faults["/payload"] = faults.content(PAGE, kind, status, Content_Range="bytes 0-9/99")
    ran = configure(cloud, tmp_path)()
    right = (kind, status) == ("application/octet-stream", 200)
    assert (Version(made.version) in ran.reading.read) is right


@pytest.mark.parametrize(
    "answer",
    [
        framed(CHUNKED, wrap="HEX\r\n%s\r\n0\r\n\r\n"),
        framed(CHUNKED, wrap="HEX;x=y\r\n%s\r\n0\r\nTrailer: x\r\n\r\n"),
        framed(LENGTH, ("Connection", "close")),
        typed("Application/Octet-Stream; charset=binary"),
    ],
    ids=["chunks", "chunks with a trailer", "close", "a parameter"],
)
def test_what_is_allowed_is_taken(
    cloud: FakeCloud, tmp_path: Path, answer: Callable[[AnsweringHandler, int, bytes, str], None]
) -> None:
    """The same bytes, in the other ways that HTTP has."""
    made = cloud.add(f"{VPS}/JWT_SECRET")
    cloud.faults["/payload"] = real(cloud, answer)
    ran = configure(cloud, tmp_path)()
    assert (ran.reply.payloads[Version(made.version)] == made.payload) is True
    assert not ran.reply.notices


@pytest.mark.parametrize(
    "answer",
    [
        faults.raw(b"HTTP/1.0 503 Unavailable", b"Retry-After: 7", b"Content-Type: text/html", body=PAGE),
        faults.raw(b"HTTP/1.1 503 Unavailable", b"Retry-After: 7", b"Content-Length: 9999", body=PAGE),
        faults.raw(b"HTTP/1.1 503 Unavailable", b"Retry-After: 7", b"Content-Length: x"),
    ],
)
@pytest.mark.parametrize("call", ["keystone", "/containers/", "/payload"])
def test_of_an_error_the_status_suffices(cloud: FakeCloud, tmp_path: Path, call: str, answer: Broken) -> None:
    """A front end that closes the connection after its page still asks for a pause."""
    cloud.add(f"{VPS}/A")
    cloud.faults[call] = answer
    ran = configure(cloud, tmp_path)()
    assert (ran.failure.status, ran.failure.retry_after, ran.failure.fault) == (503, 7, Fault.TRANSIENT)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_that_was_cut_off_denies_nothing(cloud: FakeCloud, tmp_path: Path, status: int) -> None:
    """Its body says whose word it is; without its end it is nobody's."""
    body = json.dumps({"code": status, "title": "x", "description": "y"}).encode()
    line = b"HTTP/1.1 %d No" % status
    cloud.faults["/containers/"] = faults.raw(line, b"Content-Type: application/json", body=body)
    ran = configure(cloud, tmp_path)()
    assert (ran.failure.status, ran.failure.fault) == (status, Fault.TRANSIENT)


@pytest.mark.parametrize(
    "answer", [b"SSH-2.0-OpenSSH_9.2\r\n", b"\0\1\2\3", b"HTTP/1.1\r\n\r\n", b"\r\n\r\n"]
)
def test_what_is_not_http(cloud: FakeCloud, tmp_path: Path, answer: bytes) -> None:
    """Another service's port: it is said so."""

    def fault(handler: AnsweringHandler) -> None:
        handler.wfile.write(answer)
        handler.close_connection = True

    cloud.faults["/containers/"] = fault
    ran = configure(cloud, tmp_path)()
    assert (ran.failure.step, ran.failure.fault) == (Step.BARBICAN, Fault.TRANSIENT)
    assert "not HTTP" in ran.failure.advice


def test_an_answer_with_too_many_headers(cloud: FakeCloud, tmp_path: Path) -> None:
    """A bound of the library's: it is reported as what it is."""
    headers = [b"X-%d: x" % number for number in range(200)]
    cloud.faults["/containers/"] = faults.raw(b"HTTP/1.1 200 OK", *headers, b"Content-Length: 0")
    assert "not HTTP" in configure(cloud, tmp_path)().failure.advice


def test_the_content_type_that_is_published_is_the_stored_one(cloud: FakeCloud, tmp_path: Path) -> None:
    """A text is asked for as octets, byte for byte; what it was stored as is told."""
    made = cloud.add(f"{VPS}/A")
    metadata = cloud.metadata(made) | {"content_types": {"default": "text/plain"}}
    fetch = configure(cloud, tmp_path)
    cloud.faults[f"{made.version}"] = only(cloud, faults.content(json.dumps(metadata).encode()))
    assert fetch().reading.read[Version(made.version)].content_type == "text/plain"
    for types in (
        {"default": "none"},
        {"default": "a\nb/c"},
        {"default": None},
        {"other": "text/plain"},
        ["x"],
        "x",
    ):
        body = json.dumps(metadata | {"content_types": types}).encode()
        cloud.faults[f"{made.version}"] = only(cloud, faults.content(body))
        assert fetch().reading.unread == {made.version: Unread.FAILED}
