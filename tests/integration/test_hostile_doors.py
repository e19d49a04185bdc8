"""worker.sock and registrar.sock, met by callers as they should not be: real processes, sockets and users."""

from __future__ import annotations

import contextlib
import grp
import json
import pwd
import shutil
import signal
import socket
import tempfile
import threading
import time
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from deployer import one_request
from deployer.spawning import MAX_PROCESSES
from deployer.worker.door import MAX_CALLERS
from lab.testbed.fakes.barbican import FakeBarbican
from lab.testbed.running import Caller, UnixConnection, raw
from lab.testbed.tenant import Registrar
from lab.testbed.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Iterator

VPS: Final = "vps-1"
BLUEPRINT: Final = """
[SMTP_PASSWORD]
kind = "external"
rotate = "180d"
[A]
kind = "random"
rotate = "30d"
"""
CANARY: Final = b"canary-77b1-mailgun"
TARGET: Final = f"/vps/{VPS}/secrets/SMTP_PASSWORD"
GROUP: Final = "games"
DEADLINE_S: Final = 60.0


def caller(name: str) -> Caller:
    """Return a user of this machine who may connect."""
    return Caller(pwd.getpwnam(name).pw_uid, grp.getgrnam(GROUP).gr_gid)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder in which other users reach sockets."""
    made = Path(tempfile.mkdtemp(prefix="vsd-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="module")
def workers(folder: Path) -> Iterator[Workers]:
    """A worker with one VPS; its api is the user www-data, and the group may connect."""
    more = f'concurrency = 2\nsweep = "200ms"\nlease = "5s"\ngroup = "{GROUP}"\n'
    api = 'api_user = "www-data"\n'
    url = f"sqlite:///{folder}/deployer.db"
    with FakeBarbican() as fake, Workers(fake, folder, url, worker=more, of_registrar=api) as made:
        made.wish([VPS], BLUEPRINT)
        made.start(0)
        made.until(made.all_provisioned, "never provisioned")
        yield made


@pytest.fixture(scope="module")
def door(workers: Workers, folder: Path) -> Path:
    """The worker's socket, which answers."""
    path = folder / "worker-0.sock"
    workers.until(lambda: _wakes(path), "never listens")
    return path


@pytest.fixture(scope="module")
def registrar(folder: Path) -> Iterator[Registrar]:
    """A registrar whose Keystone is never asked."""
    place = folder / "registrar"
    place.mkdir(mode=0o755)
    path = place / "deployer.toml"
    path.write_text(
        '[keystone]\nauth_url = "http://127.0.0.1:9/v3"\n'
        f'[registrar]\nsocket = "{place}/registrar.sock"\ngroup = "{GROUP}"\nworker_user = "mail"\n'
        f'credential_file = "{place}/none"\nkey_file = "{place}/none"\n'
    )
    with Registrar(path) as running:
        yield running


def _wakes(path: Path) -> bool:
    try:
        return _wake(path) == HTTPStatus.OK
    except OSError:
        return False


def _wake(path: Path) -> int:
    connection = UnixConnection(path, DEADLINE_S)
    with contextlib.closing(connection):
        connection.request("POST", "/wake", json.dumps({"vps": VPS}).encode())
        return connection.getresponse().status


def put(length: int | str, body: bytes, more: str = "") -> bytes:
    """Return a request that gives a value."""
    return f"PUT {TARGET} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n{more}\r\n".encode() + body


def given(workers: Workers) -> list[str]:
    """Return the versions of the external secret that the container lists."""
    (container,) = (one for one in workers.fake.containers.values() if one.name == VPS)
    return [
        version for name, version in container.entries if name.partition("~")[0].endswith("SMTP_PASSWORD")
    ]


def test_only_the_apis_user_may_ask_the_worker(workers: Workers, door: Path) -> None:
    """Whoever else can connect is refused by his uid, before anything that he sends is parsed."""
    for name in ("nobody", "mail"):
        for method in ("POST", "PUT", "GET"):
            status, _ = caller(name).ask(door, "/wake", method)
            assert status == HTTPStatus.FORBIDDEN
    uid = pwd.getpwnam("nobody").pw_uid
    assert f"the user {uid} of this machine may not use the worker's socket" in workers.log()
    # whoever may ask gets further
    assert caller("www-data").ask(door, "/wake", "POST")[0] == HTTPStatus.OK
    assert caller("www-data").ask(door, "/nothing", "POST")[0] == HTTPStatus.NOT_FOUND


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (put(1000, CANARY), 400),  # and half of it never comes
        (put(10**8, CANARY), 413),
        (put("-1", CANARY), 411),
        (put("1e3", CANARY), 411),
        (put(10**20, CANARY), 411),
        (put(len(CANARY), CANARY, "Transfer-Encoding: chunked\r\n"), 411),
        (put(len(CANARY), CANARY).replace(b"SMTP_PASSWORD", b"NO_SUCH"), 404),
        (put(len(CANARY), CANARY).replace(VPS.encode(), b"vps-2"), 404),
        (put(len(CANARY), CANARY).replace(b"SMTP_PASSWORD", b"A"), 422),
        (put(len(CANARY), CANARY).replace(b"SMTP_PASSWORD", b"..%2f"), 404),
        (put(len(CANARY), CANARY).replace(TARGET.encode(), b"/" + b"a" * 70000), 414),
        (put(len(CANARY), CANARY).replace(b"PUT", b"DELETE"), 501),
        (put(len(CANARY), CANARY, "X: y\r\n" * 200), 431),
        (CANARY + b"\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00" + CANARY + b"\n", 400),
        (b"POST /wake HTTP/1.1\r\nContent-Length: 5000\r\n\r\n", 413),
    ],
    ids=lambda _: "",
)
def test_what_is_no_request_changes_nothing(workers: Workers, door: Path, sent: bytes, status: int) -> None:
    """It is refused in words of ours; nothing of it comes back or is logged, and the worker goes on."""
    before = given(workers)
    answer = raw(door, sent, half_close=True)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode()), answer[:200]
    assert CANARY not in answer
    assert CANARY.decode() not in workers.log()
    assert given(workers) == before
    assert _wake(door) == HTTPStatus.OK


def test_nothing_at_all(door: Path) -> None:
    """A caller that leaves at once, or in the middle of a line."""
    for sent in (b"", b"PUT /vp"):
        raw(door, sent, half_close=True)
    assert _wake(door) == HTTPStatus.OK


def test_a_caller_that_leaves_has_given_its_value(workers: Workers, door: Path) -> None:
    """What arrived whole is stored, though nobody waits for the answer."""
    before = given(workers)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(door))
        connection.sendall(put(len(CANARY), CANARY))
    workers.until(lambda: given(workers) not in ([], before), "it was never stored")
    assert CANARY.decode() not in workers.log()


def test_many_callers_that_say_nothing(workers: Workers, door: Path, folder: Path) -> None:
    """They get no more threads than there are places, and keep the worker from nothing, its end neither."""
    process = workers.processes[-1]
    with contextlib.ExitStack() as open_still:
        silent = [open_still.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(3 * MAX_CALLERS)]
        for connection in silent:
            connection.connect(str(door))
        workers.until(lambda: "one more was not" in workers.log(), "they are all answered")
        threads = int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[17])
        assert threads < MAX_CALLERS + 20
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 0
    workers.start(0)
    workers.until(lambda: _wakes(folder / "worker-0.sock"), "never listens again")


class _Dribbled(one_request.Handler):
    request_s = 0.3


def test_who_dribbles_gets_no_more_time() -> None:
    """A byte now and then does not begin the time anew."""
    theirs, ours = socket.socketpair()
    ended = threading.Event()

    def answer() -> None:
        with ours:
            _Dribbled(ours, ("", 0), None)  # type: ignore[arg-type]  # it is not used
        ended.set()

    thread = threading.Thread(target=answer)
    thread.start()
    deadline = time.monotonic() + DEADLINE_S
    with theirs, contextlib.suppress(BrokenPipeError):
        while not ended.wait(0.02) and time.monotonic() < deadline:
            theirs.send(b"x")
        assert ended.is_set()
    thread.join()


def test_the_registrar_answers_requests_only(registrar: Registrar) -> None:
    """Nothing else is answered, or repeated in its journal; the next caller is, as far as it can be."""
    make = b"POST /vps/vps-1"
    for sent, begin in (
        (make + b" HTTP/1.1\r\nContent-Length: 19\r\n\r\n" + CANARY, b"HTTP/1.1 413 "),
        (make + b" HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", b"HTTP/1.1 413 "),
        (b"POST /vps/" + b"a" * 70000 + b" HTTP/1.1\r\n\r\n", b"HTTP/1.1 414 "),
        (make + b" HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n", b"HTTP/1.1 431 "),
        (b"POST /vps/../x HTTP/1.1\r\n\r\n", b"HTTP/1.1 404 "),
        (b"\x16\x03\x01\x02\x00" + CANARY + b"\n", b"HTTP/1.1 400 "),
        (make, b"HTTP/1.1 400 "),  # half a request
        (b"", b""),
    ):
        answer = raw(registrar.socket, sent, half_close=True, timeout=DEADLINE_S)
        assert answer.startswith(begin), (sent[:50], answer[:200])
        assert CANARY not in answer
    assert CANARY.decode() not in registrar.log.read_text()
    for _ in range(MAX_PROCESSES + 1):  # they connect and go
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(registrar.socket))
    asked = UnixConnection(registrar.socket, DEADLINE_S)
    with contextlib.closing(asked):
        asked.request("POST", "/vps/vps-1")
        assert asked.getresponse().status == HTTPStatus.INTERNAL_SERVER_ERROR


def test_strangers_get_nothing_from_the_registrar(registrar: Registrar) -> None:
    """Whatever the socket's mode; a known one gets as far as its credential, which is not there."""
    make = "/vps/vps-1"
    assert caller("nobody").ask(registrar.socket, make, "POST") == (403, "not-allowed")
    assert caller("mail").ask(registrar.socket, f"{make}/claim", "POST") == (403, "not-allowed")
    assert caller("mail").ask(registrar.socket, make, "POST") == (500, "configuration")
