"""The process that watches the beacon: over real HTTP, against a fake for faults and against a real nginx."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.config.reader import load
from agent.core.errors import Failure, Fault, Step
from agent.core.wire_watch import LOOK_S, is_seen
from agent.fetch.beacon import Beacon
from deployer.cloud.beacon import touch_file
from lab.testbed.fakes.beacon import BeaconServer
from lab.testbed.fakes.nginx import Nginx
from lab.testbed.fakes.tls import tls_context
from lab.testbed.fakes.watching import Watcher, configuration, look

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from lab.testbed.fakes.beacon import Handler

CANARY = secrets.token_hex(16)


@pytest.fixture
def beacon() -> Iterator[BeaconServer]:
    """A server of a beacon."""
    with BeaconServer() as made:
        yield made


@pytest.fixture
def config(tmp_path: Path, beacon: BeaconServer) -> Path:
    """A configuration that names it, with a signature in its query."""
    return configuration(tmp_path, f"{beacon.url}?sig={CANARY}")


def until(condition: Callable[[], bool], seconds: float = 90.0) -> None:
    """Wait for a condition."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


@pytest.mark.parametrize("etags", [True, False])
def test_it_looks_until_something_differs(config: Path, beacon: BeaconServer, *, etags: bool) -> None:
    """One kept connection, conditional where there is a tag, and one reply."""
    beacon.etags = etags
    first = look(config).seen
    assert first.startswith("etag:" if etags else "sha256:")
    with Watcher(config, first) as watcher:
        until(lambda: len(beacon.asked) >= 5)
        assert watcher.process.poll() is None
        beacon.content = b"touched"
        ended = watcher.end()
    assert ended.seen != first
    assert ended.status == 0
    assert ended.sight.looks == len(beacon.asked) - 1
    assert len(set(beacon.peers[1:])) == 1, "one connection for all looks"
    assert all(asked["cache-control"] == "no-cache" for asked in beacon.asked)
    assert all(("if-none-match" in asked) is etags for asked in beacon.asked[1:])
    assert not any("x-auth-token" in asked for asked in beacon.asked)
    assert beacon.paths[0] == f"/beacon?sig={CANARY}"


def test_its_lifetime_ends_it(config: Path, beacon: BeaconServer) -> None:
    """With what it saw, which is what was known; a lifetime of nothing is one look."""
    first = look(config).seen
    with Watcher(config, first, lifetime=0.5) as watcher:
        assert watcher.end().seen == first
    before = len(beacon.asked)
    assert look(config, first).seen == first
    assert len(beacon.asked) == before + 1


def test_it_ends_with_serve(config: Path, beacon: BeaconServer) -> None:
    """Without a word, while it waits: a long interval does not keep it."""
    first = look(config).seen
    with Watcher(config, first, interval=1200.0, lifetime=3600.0) as watcher:
        until(lambda: len(beacon.asked) == 2)
        watcher.leave()
        assert watcher.process.wait(20) == 0


def test_a_connection_that_the_server_gave_up_is_replaced(config: Path, beacon: BeaconServer) -> None:
    """Servers close idle connections, and some every one: no failure."""

    def once(handler: Handler) -> None:
        handler.close_connection = True
        handler.answer(200, beacon.content, ETag='"same"')  # closes without having said so

    beacon.fault = once
    first = look(config).seen
    with Watcher(config, first, lifetime=0.6) as watcher:
        ended = watcher.end()
    assert ended.seen == first
    assert ended.sight.looks >= 3


@pytest.mark.parametrize(
    ("etag", "seen"),
    [
        ('"abc"', 'etag:"abc"'),
        ('W/"abc"', 'etag:"abc"'),  # weak comparison, RFC 9110, 13.1.2
        ("d41d8cd98f00b204e9800998ecf8427e", 'etag:"d41d8cd98f00b204e9800998ecf8427e"'),  # Swift's
        ('""', 'etag:""'),
    ],
)
def test_entity_tags(config: Path, beacon: BeaconServer, etag: str, seen: str) -> None:
    """Weak ones and those without quotes are taken for what they mean."""
    beacon.fault = lambda handler: handler.answer(200, b"x", ETag=etag)
    assert look(config).seen == seen


@pytest.mark.parametrize("etag", ["", '"' + "x" * 300 + '"', '"a"b"', '"a\x7f"', '"\xe9"', "a b"])
def test_what_is_no_entity_tag_is_not_used(config: Path, beacon: BeaconServer, etag: str) -> None:
    """The digest of the body is, and goes into no header."""
    beacon.fault = lambda handler: handler.answer(200, b"x", ETag=etag)
    assert look(config).seen.startswith("sha256:")


def _dripping(handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Drip: ")
    while not handler.server.beacon.released.wait(0.1):
        handler.wfile.write(b"x")


def _endless(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    while not handler.server.beacon.released.is_set():
        handler.wfile.write(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")


def _truncated(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b"part")
    handler.close_connection = True


def _reset(handler: Handler) -> None:
    handler.close_connection = True
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    handler.connection.close()


def _nonsense(handler: Handler) -> None:
    handler.wfile.write(b"SSH-2.0-OpenSSH\r\n")
    handler.close_connection = True


def _framed(*headers: tuple[str, str]) -> Callable[[Handler], None]:
    """Answer three bytes with these headers for their length, and close."""

    def fault(handler: Handler) -> None:
        handler.send_response(200)
        for name, value in headers:
            handler.send_header(name, value)
        handler.end_headers()
        chunked = ("Transfer-Encoding", "chunked") in headers
        handler.wfile.write(b"3\r\none\r\n0\r\n\r\n" if chunked else b"one")
        handler.close_connection = True

    return fault


def _answer(status: int, body: bytes = b"<html>sorry</html>", **headers: str) -> Callable[[Handler], None]:
    return lambda handler: handler.answer(status, body, **headers)


@pytest.mark.parametrize(
    ("fault", "step", "status", "words"),
    [
        (_answer(301, Location="/elsewhere"), Step.BEACON, 301, "redirects are not followed"),
        (_answer(304, b""), Step.BEACON, 304, "unexpected"),
        (_answer(401), Step.BEACON, 401, "it may not be read"),
        (_answer(403), Step.BEACON, 403, "signature"),
        (_answer(404), Step.BEACON, 404, "touch it once"),
        (_answer(500), Step.BEACON, 500, "server's own log"),
        (_answer(206, b"x"), Step.BEACON, 206, "unexpected"),
        (_answer(200, b"x" * 5000), Step.BEACON, 200, "longer than 4096 bytes"),
        (_answer(500, b"x" * 500_000), Step.BEACON, 500, "server's own log"),
        (_endless, Step.BEACON, 200, "longer than 4096 bytes"),
        (_truncated, Step.CONNECTION, None, "broke off"),
        (_reset, Step.CONNECTION, None, "connection"),
        (_nonsense, Step.CONNECTION, None, "not HTTP"),
        (_answer(200, b"<html>", Content_Type="text/html; charset=utf-8"), Step.BEACON, 200, "a page came"),
        (_framed(), Step.BEACON, 200, "no length"),
        (_framed(("Content-Length", "3"), ("Transfer-Encoding", "chunked")), Step.BEACON, 200, "two lengths"),
        (_framed(("Transfer-Encoding", "gzip")), Step.BEACON, 200, "not asked for"),
        (_framed(("Content-Length", "1")), Step.CONNECTION, None, "more bytes"),
        (_framed(("Content-Length", "3"), ("Content-Length", "3")), Step.BEACON, 200, "not a number"),
    ],
)
def test_faults_are_told_and_nothing_of_them_is_taken(
    *,
    config: Path,
    beacon: BeaconServer,
    fault: Callable[[Handler], None],
    step: Step,
    status: int,
    words: str,
) -> None:
    """Each with its step; never as denied; the signature is in no text."""
    beacon.fault = fault
    ended = look(config)
    assert (ended.failure.step, ended.failure.fault, ended.failure.status) == (step, Fault.TRANSIENT, status)
    assert words in ended.failure.advice
    assert "/beacon?…" in ended.failure.tried
    assert CANARY not in str(ended.failure) + ended.log
    assert ended.status == 0
    assert "/elsewhere" not in beacon.paths


def test_retry_after_is_told(config: Path, beacon: BeaconServer) -> None:
    """So that serve obeys it."""
    beacon.fault = _answer(503, Retry_After="17")
    assert look(config).failure.retry_after == 17.0


def test_a_page_that_is_not_the_beacon_is_a_change_at_most(config: Path, beacon: BeaconServer) -> None:
    """An HTML page with 200 can't be told from a beacon: it is another one, and so at worst a poll."""
    first = look(config).seen
    beacon.fault = _answer(200)
    assert look(config, first).seen != first


def test_nothing_outlasts_the_time_of_a_look(config: Path, beacon: BeaconServer) -> None:
    """A server that sends a header a moment, for ever, is left."""
    beacon.fault = _dripping
    began = time.monotonic()
    ended = look(config)
    assert "no whole answer" in ended.failure.advice
    assert time.monotonic() - began >= LOOK_S
    assert ended.status == 0


def test_a_server_that_hangs(tmp_path: Path) -> None:
    """Accepts and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        config = configuration(tmp_path, f"http://127.0.0.1:{silent.getsockname()[1]}/beacon")
        ended = look(config)
    assert ended.failure.step is Step.CONNECTION
    assert "in time" in ended.failure.advice


heads = st.sampled_from([200, 204, 304, 100, 199, 302, 401, 999]).flatmap(
    lambda status: st.lists(
        st.sampled_from(
            [
                b"Content-Length: 3",
                b"Content-Length: -1",
                b"Content-Length: 99999999999999999999",
                b"Transfer-Encoding: chunked",
                b'ETag: "a"',
                b"ETag: " + b"x" * 5000,
                b"ETag: \xff\xfe",
                b"Connection: close",
                b"Retry-After: Thu, 99 Nov",
                b"Location: http://127.0.0.1:1/",
                b": nothing",
                b"no colon",
            ]
        ),
        max_size=5,
    ).map(lambda lines: b"\r\n".join([b"HTTP/1.1 %d x" % status, *lines]) + b"\r\n\r\n")
)
bodies = (
    st.binary(max_size=50)
    | st.just(b"3\r\nabc\r\n0\r\n\r\n")
    | st.just(b"fffffffff\r\nabc")
    | st.just(b"abc")
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(answer=st.binary(max_size=100) | st.builds(lambda head, body: head + body, heads, bodies))
def test_whatever_is_answered_is_a_validator_or_a_failure(tmp_path: Path, answer: bytes) -> None:
    """No exception leaves the look, whatever bytes come back, and what is seen passes the wire's check."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        server = threading.Thread(target=serve)
        server.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/b"
        with contextlib.closing(Beacon(load(configuration(tmp_path, url)))) as beacon:
            found = beacon.look('etag:"old"')
        server.join()
    assert isinstance(found, Failure) or is_seen(found)
    assert not isinstance(found, Failure) or found.fault is Fault.TRANSIENT


def test_nobody_there(tmp_path: Path) -> None:
    """Refused, and a name that does not exist."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert "ECONNREFUSED" in look(configuration(tmp_path, f"http://127.0.0.1:{port}/b")).failure.advice
    assert look(configuration(tmp_path, "https://beacon.invalid/b")).failure.step is Step.DNS


def test_tls(tmp_path: Path) -> None:
    """Seen with its authority; refused without, and for another name; the key to mend it is named."""
    served, other = tmp_path / "served", tmp_path / "other"
    served.mkdir()
    other.mkdir()
    with BeaconServer(tls_context(served)) as beacon:
        good = configuration(tmp_path, beacon.url, f'ca_file = "{served}/ca.pem"\n')
        assert look(good).seen.startswith("etag:")
        unknown = look(configuration(tmp_path, beacon.url)).failure
        assert (unknown.step, "configure beacon.ca_file" in unknown.advice) == (Step.TLS, True)
        named = configuration(
            tmp_path, beacon.url.replace("localhost", "127.0.0.1"), f'ca_file = "{served}/ca.pem"\n'
        )
        assert "another" in look(named).failure.advice
        missing = look(configuration(tmp_path, beacon.url, 'ca_file = "/nowhere/ca.pem"\n')).failure
        assert missing.step is Step.CONNECTION
    with BeaconServer() as plain:
        speaks_no_tls = configuration(tmp_path, plain.url.replace("http://", "https://"))
        assert look(speaks_no_tls).failure.step is Step.TLS


def test_a_mistake_in_the_table_stops_the_watch_and_no_reading(tmp_path: Path) -> None:
    """It is told; so is a table that has gone since serve read the file."""
    wrong = configuration(tmp_path, "ftp://x")
    assert look(wrong).failure.step is Step.CONFIGURATION
    wrong.write_text(wrong.read_text().partition("[beacon]")[0])
    assert "not set any more" in look(wrong).failure.advice


def test_every_touch_is_seen_by_a_real_nginx(tmp_path: Path) -> None:
    """304 while nothing happens; two touches of one second differ; a redirect is not followed."""
    with Nginx() as nginx:
        config = configuration(tmp_path, nginx.url)
        assert look(config).failure.status == 404
        touch_file(nginx.file)
        seen = look(config).seen
        with Watcher(config, seen) as watcher:
            until(lambda: nginx.log.read_text().count(" 304 ") >= 3)
            touch_file(nginx.file)
            changed = watcher.end().seen
        assert changed != seen
        os.utime(nginx.file, (1.7e9, 1.7e9))
        tags = set()
        for _ in range(20):
            touch_file(nginx.file)
            os.utime(nginx.file, (1.7e9, 1.7e9))  # all in one second
            tags.add(look(config).seen)
        assert len(tags) >= 15, "the length is random: nginx's tag is made of second and length"
        assert look(configuration(tmp_path, f"{nginx.origin}/moved")).failure.status == 301


def test_a_touch_is_whole_at_every_instant(tmp_path: Path) -> None:
    """Whoever reads while it is touched finds the old or the new one."""
    path = tmp_path / "beacon"
    touch_file(path)
    stop = threading.Event()

    def touch() -> None:
        while not stop.is_set():
            touch_file(path)

    toucher = threading.Thread(target=touch)
    toucher.start()
    sizes = {len(path.read_bytes()) for _ in range(500)}
    stop.set()
    toucher.join()
    assert min(sizes) >= 64
    assert max(sizes) <= 1024
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(tmp_path.iterdir()) == [path]
