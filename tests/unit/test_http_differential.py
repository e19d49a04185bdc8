"""The door's HTTP beside two other readers of it: h11, and llhttp (Node.js's, in the package httptools).

The same bytes go to a real server over a socket and to both references, in the same pieces. Nothing that both
refuse is accepted; what is accepted is the same request to each that takes it; and where both agree on how
many requests there are, so many are answered, unless ours refuses one for a reason in ``STRICTER``.
"""

from __future__ import annotations

import asyncio
import re
import socket
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

import h11
import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config.model import Limits
from agent.core.http import is_host
from agent.serve.host.audit import Record
from agent.serve.http.limits import CallerLimits
from agent.serve.http.responses import Answer, Response
from agent.serve.http.server import Server
from agent.serve.http.target import Target
from agent.serve.http.traffic import Traffic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from agent.core.access import Peer
    from agent.core.http import Request

TURNS: Final = 4
"""Of the event loop, after each piece: the server has read it before the next one is sent."""


class Seen(NamedTuple):
    """A request as one reader understood it; the values of a field that came twice are joined."""

    method: str
    target: str
    fields: dict[str, str]


class Reading(NamedTuple):
    """What a reader made of a stream, and how it ended: an error, a request, or it can say no more."""

    requests: list[Seen]
    refused: bool = False
    ended: bool = False
    lost: bool = False


def seen(method: bytes, target: bytes, fields: Iterable[tuple[bytes, bytes]]) -> Seen:
    """Return a request in the form that is compared."""
    joined: dict[str, str] = {}
    for name, value in fields:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1").strip(" \t")
        joined[key] = f"{joined[key]}, {text}" if key in joined else text
    return Seen(method.decode("latin-1"), target.decode("latin-1"), joined)


def by_h11(pieces: list[bytes]) -> Reading:
    """Read as a server with h11 does, which answers each request at once."""
    connection = h11.Connection(h11.SERVER)
    requests: list[Seen] = []
    asked = None
    for piece in pieces:
        try:
            connection.receive_data(piece)
            while True:
                event = connection.next_event()
                if isinstance(event, h11.Request):
                    asked = seen(event.method, event.target, event.headers.raw_items())
                elif isinstance(event, h11.EndOfMessage):
                    assert asked is not None
                    requests.append(asked)
                    connection.send(h11.Response(status_code=404, headers=[("Content-Length", "0")]))
                    connection.send(h11.EndOfMessage())
                    if connection.our_state is not h11.DONE:
                        return Reading(requests, ended=True)
                    connection.start_next_cycle()
                elif not isinstance(event, h11.Data):
                    break
        except h11.RemoteProtocolError:
            return Reading(requests, refused=True)
    return Reading(requests)


class Llhttp:
    """The callbacks of httptools, which wraps llhttp."""

    def __init__(self) -> None:
        self.parser: Final = httptools.HttpRequestParser(self)
        self.requests: Final[list[Seen]] = []
        self.ended = False
        self._target = b""
        self._fields: list[tuple[bytes, bytes]] = []

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._target, self._fields = b"", []

    def on_url(self, part: bytes) -> None:
        """Take a part of the target."""
        self._target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field."""
        self._fields.append((name, value))

    def on_message_complete(self) -> None:
        """Count it, unless the one before has ended the connection."""
        if not self.ended:
            self.requests.append(seen(self.parser.get_method(), self._target, self._fields))
            self.ended = not self.parser.should_keep_alive()


def by_llhttp(pieces: list[bytes]) -> Reading:
    """Read as a server with llhttp does."""
    reader = Llhttp()
    for piece in pieces:
        try:
            reader.parser.feed_data(piece)
        except httptools.HttpParserUpgrade:
            return Reading(reader.requests, lost=True)
        except httptools.HttpParserError:
            return Reading(reader.requests, refused=not reader.ended, ended=reader.ended)
        if reader.ended:
            break
    return Reading(reader.requests, ended=reader.ended)


class Door:
    """Answers what has a target of the right form."""

    name = "app"
    records_may_wait = True

    def __init__(self) -> None:
        self.accepted: list[Seen] = []

    def wants_unit(self) -> bool:
        """Nobody's unit matters."""
        return False

    def knows(self, peer: Peer) -> bool:
        """Everybody is equal."""
        del peer
        return True

    def answer(self, request: Request, peer: Peer | None) -> Answer:
        """Remember the request."""
        del peer
        Target(request)
        self.accepted.append(Seen(request.method, request.target, dict(request.fields)))
        return Answer(Record("served", 200, request.path, {}), Response(200, "", b"x"))


class Ours:
    """A real server; it runs while :meth:`read` does."""

    def __init__(self, path: Path, runner: asyncio.Runner) -> None:
        self._path = str(path)
        self._runner = runner
        self._door = Door()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self._path)
        self._listener.listen()
        self._server = runner.run(self._serve())

    async def _serve(self) -> Server:
        server = Server(self._door, CallerLimits(Limits(idle_timeout=600, header_timeout=600)), Traffic())
        server.accept(self._listener)
        return server

    def close(self) -> None:
        """End it."""
        self._runner.run(self._server.drain())
        self._listener.close()

    def read(self, pieces: list[bytes]) -> Reading:
        """Send the pieces and return what was accepted; each request has one answer, and so has a refusal."""
        self._door.accepted = []
        statuses = statuses_of(self._runner.run(self._ask(pieces)), self._door.accepted)
        refused = statuses != [200] * len(self._door.accepted)
        assert statuses[: len(self._door.accepted)] == [200] * len(self._door.accepted)
        assert len(statuses) == len(self._door.accepted) + refused
        assert not refused or statuses[-1] in {400, 413, 414, 431}
        return Reading(self._door.accepted, refused)

    async def _ask(self, pieces: list[bytes]) -> bytes:
        loop, got = asyncio.get_running_loop(), b""
        with socket.socket(socket.AF_UNIX) as caller:
            caller.settimeout(0)
            await loop.sock_connect(caller, self._path)
            try:
                for piece in pieces:
                    await loop.sock_sendall(caller, piece)
                    for _ in range(TURNS):
                        await asyncio.sleep(0)
                caller.shutdown(socket.SHUT_WR)
            except (BrokenPipeError, ConnectionResetError):
                pass  # it has ended the connection: what it had said before is there
            while part := await loop.sock_recv(caller, 65536):
                got += part
        return got


def statuses_of(answers: bytes, requests: list[Seen]) -> list[int]:
    """Return the status of each answer; each is one to the byte."""
    statuses: list[int] = []
    while answers:
        head, end, answers = answers.partition(b"\r\n\r\n")
        status = re.match(rb"HTTP/1\.1 ([0-9]{3}) ", head)
        length = re.search(rb"\r\nContent-Length: ([0-9]+)(?:\r\n|$)", head)
        assert end
        assert status
        assert length
        size, of = int(length[1]), len(statuses)
        if of == len(requests):  # a refusal is the last answer; of a HEAD, where it was told to be one, bare
            assert len(answers) in {0, size}
            size = len(answers)
        elif requests[of].method == "HEAD":
            size = 0
        assert len(answers) >= size
        statuses.append(int(status[1]))
        answers = answers[size:]
    return statuses


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ours]:
    """A server for all the streams."""
    with asyncio.Runner() as runner:
        made = Ours(tmp_path_factory.mktemp("door") / "socket", runner)
        yield made
        made.close()


def _announces_body(request: Seen, head: bytes) -> bool:
    del head
    return "transfer-encoding" in request.fields or bool(request.fields.get("content-length", "").strip("0"))


def _has_no_path(request: Seen, head: bytes) -> bool:
    del head
    return re.fullmatch(r"/.*|http://[^/?#]+/.*", request.target, re.IGNORECASE) is None or (
        request.target[0] != "/" and not is_host(request.target[7:].partition("/")[0])
    )


def _has_no_host(request: Seen, head: bytes) -> bool:
    del head
    return bool(request.fields.get("host")) and not is_host(request.fields["host"])


STRICTER: Final[dict[str, Callable[[Seen, bytes], bool]]] = {
    "no path of ours takes a body, and without bodies nothing else frames a message": _announces_body,
    "every request here is for a path; OPTIONS * and CONNECT have no meaning": _has_no_path,
    "a Host that is none is a MUST of RFC 9112, 3.2, that h11 and llhttp leave to their users": _has_no_host,
    "a folded line is to be refused or replaced (RFC 9112, 5.2)": lambda _, head: (
        b"\n " in head or b"\n\t" in head
    ),
    "lines end with CR LF: a lone LF may be taken for an end (RFC 9112, 2.2), and readers differ on it": (
        lambda _, head: re.search(rb"(?<!\r)\n", head) is not None
    ),
    "other versions than 1.0 and 1.1": lambda _, head: re.search(rb" HTTP/(?!1\.[01]\r)", head) is not None,
    "the target is visible ASCII (RFC 3986); readers differ on the rest": (
        lambda request, _: re.fullmatch("[!-~]+", request.target) is None
    ),
}
"""Why ours refuses what both references accept, on purpose."""


def compare(ours: Ours, pieces: list[bytes]) -> None:
    """Have the three read the same stream, and find any difference that has no reason."""
    mine, others = ours.read(pieces), (by_h11(pieces), by_llhttp(pieces))
    said = f"{mine}\nh11: {others[0]}\nllhttp: {others[1]}"
    for index, request in enumerate(mine.requests):
        same = [one.requests[index] for one in others if len(one.requests) > index]
        assert same or any(one.lost for one in others), f"only ours accepts it: {said}"
        assert all(one == request for one in same), f"readers differ on it: {said}"
    first, second = others
    if first.lost or second.lost or first.requests != second.requests:
        return
    agreed, count = first.requests, len(mine.requests)
    heads = re.split(rb"(?<=\r\n\r\n)", b"".join(pieces))
    if count == len(agreed):  # the rest is no request, or not yet
        assert not (mine.refused and first.ended and second.ended), f"one answer too many: {said}"
        whole = heads[count].endswith(b"\r\n\r\n")
        assert mine.refused or not (whole and first.refused and second.refused), f"no answer to it: {said}"
        return
    assert mine.refused, f"not every request is answered: {said}"
    assert any(reason(agreed[count], heads[count]) for reason in STRICTER.values()), f"too strict: {said}"


KNOWN: Final = [
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 3,
    b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET http://a:80/x HTTP/1.1\r\nHost: a\r\n\r\nGET /y HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET http://a HTTP/1.1\r\nHost: a\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost:\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
    b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n 2\r\n\r\n",
    b"GET / HTTP/1.1\nHost: a\n\n",
    b"GET / HTTP/1.1\r\nHost: a\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n\rX: y\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\nGET / HTTP/1.0\r\n\r\n",
    b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET / HTTP/1.0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/2.0\r\nHost: a\r\n\r\n",
    b"GET / HTTP/0.9\r\nHost: a\r\n\r\n",
    b"GET /\r\n\r\n",
    b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    *(
        b"POST / HTTP/1.1\r\nHost: a\r\n" + body + b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
        for body in (
            b"Content-Length: 5\r\n\r\nhello",
            b"Content-Length: +5\r\n\r\nhello",
            b"Content-Length: -5\r\n\r\nhello",
            b"Content-Length: 5 \r\n\r\nhello",
            b"Content-Length: 5, 5\r\n\r\nhello",
            b"Content-Length: 0, 5\r\n\r\nhello",
            b"Content-Length: 0\r\nContent-Length: 5\r\n\r\nhello",
            b"Content-Length: 0\r\nContent-Length: 0\r\n\r\n",
            b"Content-Length: 99999999999999999999999\r\n\r\nhello",
            b"Content-Length:\r\n\r\n",
            b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
            b"Transfer-Encoding: identity\r\n\r\n",
            b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
            b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
            b"Transfer_Encoding: chunked\r\n\r\n",
            b"Transfer-Encoding:\r\n\r\n",
            b"Transfer-Encoding:\x0bchunked\r\n\r\n",
            b"Upgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
        )
    ),
]


@pytest.mark.parametrize("stream", KNOWN)
def test_known_streams_are_read_alike(ours: Ours, stream: bytes) -> None:
    """Whole, and byte by byte."""
    compare(ours, [stream])
    compare(ours, [stream[at : at + 1] for at in range(len(stream))])


METHODS: Final = (b"GET", b"HEAD", b"POST", b"PUT", b"OPTIONS", b"CONNECT", b"BREW", b"get", b"G(T", b"")
TARGETS: Final = (
    *(b"/", b"/v1/secrets/a?version=previous", b"//a", b"/a%00b", b"/a#b", b"/\xc3\xa9", b"/a b", b"x", b""),
    *(b"http://a/x", b"HTTP://a:80/", b"http://[::1]/x", b"http://a", b"http:///x", b"http://a b/x"),
    *(b"https://a/", b"a:80", b"a", b"*", b"/\0", b"/\t", b"/\x7f"),
)
VERSIONS: Final = (b"HTTP/1.1",) * 8 + (b"HTTP/1.0", b"HTTP/0.9", b"HTTP/1.2", b"HTTP/2.0", b"http/1.1")
VERSIONS_TOO: Final = (b"HTTP/11", b"HTTP/1.1 ", b"HTTP/1.10", b"HTTP/ 1.1", b"HTTP/1", b"")
HOSTS: Final = (
    *(b"a", b"a:80", b"a:", b":80", b"", b"[::1]", b"[::1]:80", b"[::1", b"a b", b"a/b", b"u@a", b"a, b"),
    *(b"a%41", b"a%4", b"a\0", b"a\x7f", b"\xff", b"a:8x", b"a:80:80", b'"a"'),
)
EXTRAS: Final = (
    *(b"X: y", b"X:y", b"X:", b"X: \t y \t", b"X : y", b" X: y", b"X: a\r\n b", b"X: a\r\n\tb", b"X: \x0b"),
    *(b"X: a\rb", b"X: \0", b"X: \x7f", b"X: \xff", b"X", b": y", b"\0: y", b"X(: y", b"X: a\nY: b"),
    *(b"Connection: close", b"Connection: keep-alive", b"Connection: Upgrade\r\nUpgrade: x"),
    *(b"connection: x, CLOSE", b"Expect: 100-continue", b"Trailer: X", b"Cookie: a=b"),
)
LENGTHS: Final = (b"0", b"00", b"5", b"+1", b"-1", b"1,1", b"0,0", b"0 0", b"0x0", b"", b"9" * 30, b"\t0 ")
CODINGS: Final = (b"chunked", b"Chunked", b"identity", b"gzip, chunked", b"chunked, chunked", b"", b"\x0bx")
BODIES: Final = (
    b"",
    b"hello",
    b"0\r\n\r\n",
    b"5\r\nhello\r\n0\r\n\r\n",
    b"5;x=y\r\nhello\r\n0\r\nT: u\r\n\r\n",
)


def odd(usual: bytes, others: tuple[bytes, ...]) -> st.SearchStrategy[bytes]:
    """Draw what is usual half of the time, so that a stream gets past its first request."""
    return st.one_of(st.just(usual), st.sampled_from(others))


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """Draw a request with some oddities."""
    line = b" ".join(
        (
            draw(odd(b"GET", METHODS)),
            draw(odd(b"/x", TARGETS)),
            draw(odd(b"HTTP/1.1", VERSIONS + VERSIONS_TOO)),
        )
    )
    hosts = draw(st.one_of(st.just([b"a"]), st.lists(st.sampled_from(HOSTS), max_size=2)))
    fields = [b"Host: " + host for host in hosts]
    fields += draw(st.lists(st.sampled_from(EXTRAS), max_size=2))
    body = b""
    if draw(st.integers(0, 3)) == 0:
        lengths = draw(st.lists(st.sampled_from(LENGTHS), max_size=2))
        codings = draw(st.lists(st.sampled_from(CODINGS), max_size=2))
        fields += [b"Content-Length: " + one for one in lengths]
        fields += [b"Transfer-Encoding: " + one for one in codings]
        body = draw(st.sampled_from(BODIES))
    end = draw(odd(b"\r\n", (b"\r\n", b"\r\n", b"\n", b"\r")))
    before = draw(odd(b"", (b"", b"", b"\r\n", b"\n", b" ")))
    return before + line + end + b"".join(one + end for one in draw(st.permutations(fields))) + end + body


@st.composite
def streams(draw: st.DrawFn) -> list[bytes]:
    """Draw pipelined requests, cut into pieces anywhere, and sometimes cut off."""
    stream = b"".join(draw(st.lists(messages(), min_size=1, max_size=4)))
    stream = stream[: draw(st.one_of(st.just(len(stream)), st.integers(1, len(stream))))]
    cuts = sorted(draw(st.sets(st.integers(1, len(stream)), max_size=4)) | {0, len(stream)})
    return [stream[start:end] for start, end in pairwise(cuts)]


@given(pieces=streams())
def test_streams_are_read_alike(ours: Ours, pieces: list[bytes]) -> None:
    """Whatever a caller sends."""
    compare(ours, pieces)
