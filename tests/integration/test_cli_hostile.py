"""The command vps-secrets beside whoever may listen at its sockets: it ends in time, with clean output."""

from __future__ import annotations

import contextlib
import io
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.cli.__main__ import main
from lab.testbed.fakes.fetch_server import World
from lab.testbed.running import ROOT, Agent, fake_configuration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LONG_S = 100
"""More than any of the commands may take on a machine under load; those that never end take longer."""
COMMANDS = {
    "status": ("status",),
    "list": ("list",),
    "wait": ("wait",),
    "refresh": ("refresh",),
    "explain": ("explain", "A"),
}
DIRTY = "x\x1b[2J\x07\r\n\x00\x7f\x85\x9b31m\u202e\u2066\ud800\u200b\ufeffy"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(DIRTY) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


def http(body: bytes, status: int = 200, more: str = "") -> bytes:
    """Return a whole answer."""
    return f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n{more}\r\n".encode() + body


class Hostile:
    """Listens on both sockets of a directory of its own and treats each connection as ``treat`` says."""

    def __init__(self, treat: Callable[[socket.socket], None]) -> None:
        self.treat = treat
        self.over = threading.Event()
        self._directory = tempfile.TemporaryDirectory(prefix="vsh-")
        self.directory = Path(self._directory.name)
        self._listeners = [socket.socket(socket.AF_UNIX) for _ in "ab"]
        for listener, name in zip(self._listeners, ("app.sock", "control.sock"), strict=True):
            listener.bind(str(self.directory / name))
            listener.listen()
            threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for listener in self._listeners:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        self._directory.cleanup()

    def arguments(self, *words: str) -> list[str]:
        """Return a command line that asks here."""
        paths = [f"--socket={self.directory}/app.sock", f"--control-socket={self.directory}/control.sock"]
        return [*words, *paths]

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._treat, args=(connection,), daemon=True).start()

    def _treat(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            self.treat(connection)


def run(arguments: list[str], **more: Any) -> subprocess.CompletedProcess[str]:
    """Run the command as a process; one that does not end fails."""
    return subprocess.run(
        [sys.executable, "-m", "agent.cli", *arguments],
        **({"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | more),
        cwd=ROOT,
        text=True,
        errors="surrogateescape",
        timeout=LONG_S,
        check=False,
    )


def assert_clean(text: str, what: object = "") -> None:
    """Nothing but lines of printable characters, and no traceback."""
    dirty = {c for c in text if unicodedata.category(c).startswith("C") and c != "\n"}
    assert not dirty, (dirty, what)
    assert "Traceback" not in text, (text, what)


@pytest.mark.parametrize("how", ["hangs", "drips", "drips a body", "never reads"])
@pytest.mark.parametrize("command", COMMANDS)
def test_one_deadline_holds_over_everything(command: str, how: str) -> None:
    """Each would take for ever where only single waits were bounded: a byte comes within each of them."""

    def treat(connection: socket.socket) -> None:
        text = b"HTTP/1.1 200 OK\r\nX: " if how == "drips" else http(b" " * 100_000)[:60]
        while not hostile.over.wait(0.1):
            if how.startswith("drips"):
                connection.sendall(text[:1] or b"x")
                text = text[1:]

    with Hostile(treat) as hostile:
        if how == "never reads":  # nor accepts: the queue of the socket is full (EAGAIN)
            hostile.over.set()
            fill_queue(hostile.directory)
        done = run(hostile.arguments(*COMMANDS[command], "--timeout", "1"))
    assert done.returncode == 3
    assert "no whole answer within" in done.stderr or "not ready after" in done.stderr
    assert_clean(done.stdout + done.stderr)


def fill_queue(directory: Path) -> None:
    """Put listeners that never accept, with full queues, in the place of those that are there."""
    for name in ("app.sock", "control.sock"):
        (directory / name).unlink()
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(directory / name))
        listener.listen(0)
        kept.append(listener)
        with contextlib.suppress(BlockingIOError):
            while True:
                connection = socket.socket(socket.AF_UNIX)
                kept.append(connection)
                connection.settimeout(0.0)
                connection.connect(str(directory / name))


kept: list[socket.socket] = []


@pytest.fixture(autouse=True)
def _close_kept() -> Iterator[None]:
    yield
    while kept:
        kept.pop().close()


@pytest.mark.parametrize("after", ["0", "1", "99999999999999999999", "x"])
def test_refused_again_and_again_it_gives_up(after: str) -> None:
    """429 without end, with any Retry-After: the deadline is over all attempts."""
    body = json.dumps({"title": "too fast"}).encode()
    with Hostile(lambda c: c.sendall(http(body, 429, f"Retry-After: {after}\r\n"))) as hostile:
        done = run(hostile.arguments("refresh", "--timeout", "2"))
    assert done.returncode in {1, 3}
    assert_clean(done.stdout + done.stderr)


HEADS = {
    "nothing": b"",
    "no end": b"HTTP/1.1 200 OK\r\n",
    "a status that is none": b"HTTP/1.1 \xff\xfe\x1b OK\r\n\r\n{}",
    "a length that is none": b"HTTP/1.1 200 OK\r\nContent-Length: \x1b[2J\r\n\r\n{}",
    "not text": bytes(range(256)) * 50,
    "deep": http(b'{"a":' * 100 + b"1" + b"}" * 100),
    "deeper than Python": http(b"[" * 300_000),
    "deep in an object": http(b'{"secrets":' + b"[" * 200_000 + b"]" * 200_000 + b"}"),
    "a long number": http(b'{"generation": ' + b"9" * 10_000 + b"}"),
    "not UTF-8": http(b'{"generation": "\xff"}'),
    "not a number": http(b'{"confirmedAge": NaN, "nextAttemptIn": Infinity, "generation": -1e999}'),
    "an unknown status": http(json.dumps({"title": DIRTY, "detail": DIRTY}).encode(), 799),
    "refused": http(json.dumps({"title": DIRTY, "detail": DIRTY}).encode(), 403),
}


@pytest.mark.parametrize("kind", HEADS)
def test_nonsense_ends_every_command_in_words(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    """No traceback, nothing that a terminal obeys."""
    with Hostile(lambda connection: connection.sendall(HEADS[kind])) as hostile:
        for words in (*COMMANDS.values(), ("watch",)):
            timeout = () if words == ("watch",) else ("--timeout", "1")
            assert main(hostile.arguments(*words, *timeout)) in {0, 1, 3, 4}
            shown = capsys.readouterr()
            assert_clean(shown.out + shown.err, (kind, words))


def places(value: object, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every member and element."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def put(value: Any, path: tuple[Any, ...], other: object) -> Any:
    """Return a copy with something else at a path."""
    if not path:
        return other
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = put(value[path[0]], path[1:], other)
    return copy


@pytest.fixture(scope="module")
def recorded() -> dict[str, tuple[int, Any]]:
    """What a real agent answers, by command; the status with every part that it may have."""
    world = World(rejected=("vps-other/X",))
    for name in ("A", "B"):
        world.put(name, b"value")
    grant = '[[grant]]\nuser = "root"\nsecrets = ["*"]\n'
    with Agent(lambda directory: fake_configuration(directory, world, grant)[1]) as agent:
        agent.start().until_ready()
        answers = {
            "status": agent.ask_control("/v1/status"),
            "refresh": agent.ask_control("/v1/refresh", "POST"),
            "explain": agent.ask_control("/v1/explain?user=0&name=A"),
            "list": agent.get("/v1/secrets"),
            "wait": agent.get("/v1/health/ready"),
        }
    found = {command: (answer.status, answer.json) for command, answer in answers.items()}
    failure = {"step": "Barbican", "fault": "transient", "status": 503, "tried": "to", "advice": "look"}
    found["status"][1].update(failure=failure, configurationError="a\nb", droppedIn=5.0, pending=["C"])
    found["status"][1]["beacon"] = {
        "url": "https://x",
        "state": "away",
        "lastChange": 1.0,
        "pollIn": 1.0,
        "nextLookIn": 1.0,
        "failure": failure,
    }
    found["status"][1]["acknowledged"] = {
        "generation": 1,
        "at": "2026-11-26T12:00:03Z",
        "current": False,
        "problem": "HTTP 401",
    }
    found["refused"] = (502, {"title": "t", "detail": "d", "failure": failure, "nextAttemptIn": 1.0})
    return found


def shown(arguments: list[str]) -> tuple[int, str]:
    """Run the command in this process; return its status and what it wrote."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        status = main(arguments)
    return status, out.getvalue()


@settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.data())
def test_any_json_in_the_place_of_any_member(
    recorded: dict[str, tuple[int, Any]], data: st.DataObject
) -> None:
    """As text and as JSON: it is shown cleanly or refused in words, and JSON stays JSON."""
    command = data.draw(st.sampled_from(sorted(recorded)))
    status, content = recorded[command]
    path = data.draw(st.sampled_from(list(places(content))))
    body = json.dumps(put(content, path, data.draw(JSON))).encode()
    words = COMMANDS.get(command, ("refresh",))
    with Hostile(lambda connection: connection.sendall(http(body, status))) as hostile:
        for more in ((), ("--json",)):
            code, text = shown(hostile.arguments(*words, *more, "--timeout", "20"))
            assert code in {0, 1}, (path, text)
            assert_clean(text, path)
            if more and code == 0 and command != "list":
                json.loads(text)


def test_every_member_with_every_wrong_type(recorded: dict[str, tuple[int, Any]]) -> None:
    """Not left to chance: each member of each answer, with one value of each type and with dirt."""
    others: tuple[object, ...] = (None, True, -1, 1.5, 1e300, DIRTY, [], [None], [DIRTY], {}, {DIRTY: DIRTY})
    answer = b""
    with Hostile(lambda connection: connection.sendall(answer)) as hostile:
        for command, (status, content) in recorded.items():
            for path in places(content):
                for other in others:
                    answer = http(json.dumps(put(content, path, other)).encode(), status)
                    words = COMMANDS.get(command, ("refresh",))
                    code, text = shown(hostile.arguments(*words, "--timeout", "20"))
                    assert code in {0, 1}, (command, path, other, text)
                    assert_clean(text, (command, path, other))


@pytest.mark.parametrize("words", [("status",), ("list",), ("--help",), ("--version",), ("status", "--json")])
def test_wherever_the_output_goes(words: tuple[str, ...], recorded: dict[str, tuple[int, Any]]) -> None:
    """A full disk, a reader that has left, a closed descriptor, ASCII only."""
    command = words[0] if words[0] in COMMANDS else "status"
    status, content = recorded[command]
    body = json.dumps(put(content, ("secrets", 0, "name"), "naïve…→")).encode()
    with Hostile(lambda connection: connection.sendall(http(body, status))) as hostile:
        arguments = hostile.arguments(*words) if words[0] in COMMANDS else list(words)
        with Path("/dev/full").open("w") as full:
            done = run(arguments, stdout=full)
            if words[0] in COMMANDS:  # some versions of argparse take no notice
                assert (done.returncode, "can't be written: No space left" in done.stderr) == (1, True)
            assert_clean(done.stderr)
            assert run(arguments, stdout=full, stderr=full).returncode in {0, 1}
        reader, writer = os.pipe()
        os.close(reader)
        done = run(arguments, stdout=writer)
        os.close(writer)
        assert (done.returncode, done.stderr) == (0, "")
        environ = os.environ | {
            "PYTHONIOENCODING": "",
            "PYTHONUTF8": "0",
            "LC_ALL": "C",
            "PYTHONCOERCECLOCALE": "0",
        }
        done = run(arguments, env=environ)
        assert done.returncode == 0
        assert_clean(done.stdout + done.stderr)
        closed = run(arguments, stdout=None, preexec_fn=lambda: os.close(1))
        assert_clean(closed.stderr)


def test_a_watch_that_is_answered_at_once_does_not_spin() -> None:
    """It asks about once a second, whatever comes back; it counts what it was asked, not the time."""
    asked: list[float] = []

    def treat(connection: socket.socket) -> None:
        asked.append(time.monotonic())
        connection.sendall(http(b'{"generation": 1, "secrets": [], "changed": []}'))

    with (
        Hostile(treat) as hostile,
        subprocess.Popen(
            [sys.executable, "-m", "agent.cli", "watch", f"--socket={hostile.directory}/app.sock"],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
        ) as watch,
    ):
        while len(asked) < 8:
            assert watch.poll() is None
            time.sleep(0.05)
        watch.kill()
    assert asked[7] - asked[0] > 2, "two rounds of two requests and their pauses"
