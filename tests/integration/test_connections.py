"""The connections of the real daemon: kept alive, closed, half-closed, never read, and its end."""

from __future__ import annotations

import contextlib
import fcntl
import re
import resource
import signal
import socket
import struct
import termios
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agent.serve.http.limits import MAX_UNSENT
from lab.testbed.fakes.fetch_server import World
from lab.testbed.running import Agent, UnixConnection, fake_configuration, raw

if TYPE_CHECKING:
    from collections.abc import Iterator

GRANTS = """
[app.limits]
header_timeout = "2s"
idle_timeout = "3s"
[[grant]]
user = "root"
secrets = ["*"]
"""
BIG = 19_000
"""Bytes of a large secret; Barbican takes 20,000 in all."""
LIVE = b"GET /v1/health/live HTTP/1.1\r\nHost: a\r\n\r\n"
READ_BIG = b"GET /v1/secrets/BIG HTTP/1.1\r\nHost: a\r\n\r\n"
READ_BUNDLE = b"GET /v1/bundle HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture(scope="module")
def agent() -> Iterator[Agent]:
    """A running agent with a small and a large secret."""
    world = World()
    world.put("A", b"canary")
    world.put("BIG", b"x" * BIG)
    made = Agent(lambda directory: fake_configuration(directory, world, GRANTS)[1])
    with made:
        yield made.start().until_ready()
        assert "unhandled" not in made.log


def connect(agent: Agent) -> socket.socket:
    """Connect to the app socket."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(90)
    connection.connect(str(agent.app))
    return connection


def until_full(agent: Agent, connection: socket.socket) -> None:
    """Wait until more than one answer waits to be read: the socket takes three of them."""

    def held() -> int:
        """Return how many bytes wait to be read (unix(7), SIOCINQ)."""
        return int(struct.unpack("i", fcntl.ioctl(connection, termios.FIONREAD, bytes(4)))[0])

    agent.until(lambda: held() > BIG)


def until_end(connection: socket.socket) -> bytes:
    """Return all that still comes."""
    received = b""
    while chunk := connection.recv(65536):
        received += chunk
    return received


def resident(agent: Agent) -> int:
    """Return the resident memory of the agent, in bytes."""
    assert agent.process is not None
    status = Path(f"/proc/{agent.process.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /v1/health/live HTTP/1.0\r\n\r\n",
        b"GET /v1/health/live HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        b"GET /v1/health/live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    ],
)
def test_who_wants_it_closed_finds_it_closed(agent: Agent, request_: bytes) -> None:
    """At once, and told so."""
    with connect(agent) as connection:
        connection.sendall(request_)
        received = until_end(connection)
    assert received.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nConnection: close\r\n" in received
    assert received.endswith(b'\r\n\r\n{"live": true}')


def test_a_request_may_come_in_pieces(agent: Agent) -> None:
    """Byte by byte, with the beginning of the next one in the same piece as its end."""
    with connect(agent) as connection:
        for byte in LIVE[:-1]:
            connection.sendall(bytes([byte]))
        for _ in range(3):
            connection.sendall(LIVE[-1:] + LIVE[:-1])
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("field", [b"", b"Host: a\r\nHost: b\r\n", b"Host: a\r\n b\r\n", b"Host : a\r\n"])
def test_strictness_reaches_the_socket(agent: Agent, field: bytes) -> None:
    """Refused with a problem document, one audit record, and the connection closed."""
    before = len(agent.audit())
    received = raw(agent.app, b"GET /v1/secrets HTTP/1.1\r\n" + field + b"\r\n" + LIVE)
    assert received.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert received.count(b"\r\nDate: ") == 1
    assert [record["reason"] for record in agent.audit()[before:]] == ["bad-request"]


def test_a_head_asks_for_no_content(agent: Agent) -> None:
    """Neither 200 nor 405 to HEAD has a body, so the next answer is found."""
    connection = UnixConnection(agent.app)
    for method, target, status in (
        ("HEAD", "/v1/secrets", 405),
        ("HEAD", "/v1/health/live", 200),
        ("GET", "/v1/health/live", 200),
    ):
        connection.request(method, target)
        response = connection.getresponse()
        assert (response.status, bool(response.read())) == (status, method == "GET")
    connection.close()


def test_whoever_sends_a_body_can_read_the_refusal(agent: Agent) -> None:
    """The connection stays long enough for a client that looks at the answer only after it has sent all."""
    with connect(agent) as connection:
        connection.sendall(b"POST /v1/secrets HTTP/1.1\r\nHost: a\r\nContent-Length: 3000000\r\n\r\n")
        for _ in range(30):
            connection.sendall(b"x" * 100_000)
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 Content Too Large\r\n")


def test_a_body_is_never_taken_for_a_request() -> None:
    """Nor where its sender asks faster than its limit: the refusal of a body ends the connection."""
    world = World()
    world.put("A", b"canary")
    limited = GRANTS.replace("[app.limits]", "[app.limits]\nrequests_per_second = 1")
    with Agent(lambda directory: fake_configuration(directory, world, limited)[1]) as agent:
        agent.start().until_ready()
        body = b"GET /v1/secrets/A HTTP/1.1\r\nHost: a\r\n\r\n"
        posted = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body)
        before = len(agent.audit())
        received = raw(agent.app, LIVE + LIVE + posted + body)
        assert received.count(b"HTTP/1.1 ") == 3
        assert [record["status"] for record in agent.audit()[before:]][1:] == [429, 413]


def test_one_that_never_reads_takes_no_memory(agent: Agent) -> None:
    """It pipelines until the agent reads no more; others are answered; it is closed after idle_timeout."""
    agent.get("/v1/secrets/BIG")
    before, asked = resident(agent), 0
    with connect(agent) as connection:
        connection.settimeout(1)
        with contextlib.suppress(TimeoutError):
            while asked < 10_000_000:
                asked += connection.send(READ_BIG * 100) // len(READ_BIG)
        assert agent.get("/v1/secrets/A").status == 200
        served = len([r for r in agent.audit() if r["action"] == "/v1/secrets/BIG"])
        assert asked > 100
        assert served <= 10, "it is answered although it does not read"
        assert resident(agent) - before < 4_000_000
        connection.settimeout(90)
        agent.until(lambda: agent.status()["connections"]["app"] == 0)
        with pytest.raises(BrokenPipeError):
            connection.sendall(LIVE)


def test_many_that_never_read_take_no_memory() -> None:
    """Bundles that a uid leaves untaken are bounded together; it is answered again once they are given up."""
    world = World()
    for number in range(100):
        world.put(f"S{number}", b"x" * BIG)
    with Agent(lambda directory: fake_configuration(directory, world, GRANTS)[1]) as agent:
        agent.start().until_ready()
        size = len(agent.get("/v1/bundle").body)
        before = resident(agent)
        with contextlib.ExitStack() as stack:
            for _ in range(100):
                stack.enter_context(connect(agent)).sendall(READ_BUNDLE)
            agent.until(lambda: agent.get("/v1/secrets").status == 429)
            assert resident(agent) - before < MAX_UNSENT + 8 * size
            agent.until(lambda: agent.get("/v1/secrets").status == 200)
        records = [record["status"] for record in agent.audit() if record["action"] == "/v1/bundle"]
        assert 0 < records.count(200) <= 2 + MAX_UNSENT // size
        assert records.count(429) == 101 - records.count(200)


def test_a_slow_reader_gets_all(agent: Agent) -> None:
    """In order and whole, although the socket's buffer holds a part of it only."""
    with connect(agent) as connection:
        connection.sendall(READ_BIG * 60)
        connection.shutdown(socket.SHUT_WR)
        until_full(agent, connection)
        received = until_end(connection)
    assert received.count(b"HTTP/1.1 200 OK\r\n") == 60
    assert received.count(b"x" * BIG) == 60


def test_a_watcher_that_closes_its_half_has_left(agent: Agent) -> None:
    """It is counted out and recorded once, with nothing handed over."""
    with connect(agent) as connection:
        connection.sendall(b"GET /v1/watch?timeout=300 HTTP/1.1\r\nHost: a\r\n\r\n")
        agent.until(lambda: agent.status()["watchers"] == 1)
        connection.shutdown(socket.SHUT_WR)
        assert until_end(connection) == b""
    agent.until(lambda: agent.status()["watchers"] == 0)
    record = agent.audit()[-1]
    assert (record["status"], record["reason"]) == (204, "not-answered")
    assert "secrets" not in record


@pytest.mark.parametrize("accept", [b"", b"Accept: text/event-stream\r\n"])
def test_a_watcher_that_had_left_before_its_turn_is_not_waited_for(agent: Agent, accept: bytes) -> None:
    """What was asked before it is answered, although slowly; then the connection ends."""
    watch = b"GET /v1/watch?timeout=300 HTTP/1.1\r\nHost: a\r\n" + accept + b"\r\n"
    before = len(agent.audit())
    with connect(agent) as connection:
        connection.sendall(READ_BIG * 10 + watch)
        connection.shutdown(socket.SHUT_WR)
        until_full(agent, connection)
        assert until_end(connection).count(b"x" * BIG) == 10
    agent.until(lambda: agent.status()["watchers"] == 0)
    assert len(agent.audit()) == before + 11


def test_a_watch_is_answered_before_what_comes_after_it(agent: Agent) -> None:
    """Pipelined requests wait for their turn."""
    with connect(agent) as connection:
        connection.sendall(b"GET /v1/watch?timeout=1 HTTP/1.1\r\nHost: a\r\n\r\n" + LIVE)
        received = connection.recv(65536)
        while b"live" not in received:
            received += connection.recv(65536)
        assert received.startswith(b"HTTP/1.1 204 No Content\r\n")


def test_a_lost_event_stream_is_forgotten(agent: Agent) -> None:
    """At once, and without a second record."""
    before = len(agent.audit())
    with connect(agent) as connection:
        connection.sendall(b"GET /v1/watch HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n")
        assert b"text/event-stream" in connection.recv(65536)
        agent.until(lambda: agent.status()["watchers"] == 1)
    agent.until(lambda: agent.status()["watchers"] == 0)
    agent.until(lambda: agent.status()["connections"]["app"] == 0)
    assert len(agent.audit()) == before + 1


def test_without_descriptors_it_goes_on_with_those_it_has() -> None:
    """It says so, accepts again a second later, and who has connected meanwhile is answered then."""
    world = World()
    world.put("A", b"canary")
    with Agent(lambda directory: fake_configuration(directory, world, GRANTS)[1]) as agent:
        agent.start().until_ready()
        assert agent.process is not None
        pid = agent.process.pid
        kept = UnixConnection(agent.app)
        kept.connect()
        agent.until(lambda: agent.status()["connections"].get("app") == 1)
        used = max(int(path.name) for path in Path(f"/proc/{pid}/fd").iterdir())
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + 1, before[1]))
        with contextlib.ExitStack() as stack:
            waiting = [stack.enter_context(connect(agent)) for _ in range(used + 2)]
            agent.until(lambda: "no connection can be accepted for 1.0 s: Too many open files" in agent.log)
            kept.request("GET", "/v1/secrets/A")
            assert kept.getresponse().status == 200
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
            waiting[-1].sendall(LIVE)
            assert waiting[-1].recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")
        kept.close()


def test_the_end_answers_whoever_is_connected() -> None:
    """A watch as if its time were up, with the word that it is the last answer; a stream and the idle end."""
    world = World()
    world.put("A", b"canary")
    with Agent(lambda directory: fake_configuration(directory, world, GRANTS)[1]) as agent:
        agent.start().until_ready()
        with connect(agent) as watcher, connect(agent) as stream, connect(agent) as idle:
            watcher.sendall(b"GET /v1/watch?timeout=300 HTTP/1.1\r\nHost: a\r\n\r\n")
            stream.sendall(b"GET /v1/watch HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n")
            agent.until(lambda: agent.status()["watchers"] == 2)
            agent.signal(signal.SIGTERM)
            answer = until_end(watcher)
            assert answer.startswith(b"HTTP/1.1 204 No Content\r\n")
            assert b"\r\nConnection: close\r\n" in answer
            assert until_end(idle) == b""
            assert until_end(stream).startswith(b"HTTP/1.1 200 OK\r\n")
        assert agent.stop() == 0
        assert "unhandled" not in agent.log
