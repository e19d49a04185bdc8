"""vps-secrets run: a command with its secrets as environment or files; signals, statuses, rotations."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest

from lab.testbed.fakes.fetch_server import World
from lab.testbed.running import Agent, fake_configuration

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
NOBODY = 65534
SYSTEM_PYTHON = "/usr/bin/python3"
"""Debian's: another user may run it, and this checkout may lie where he can't read."""
CANARY = "canary-Tn8wE"
BINARY = b"\xff\0key\n"
GRANT = '[[grant]]\nuser = "root"\nsecrets = ["*"]\n[[grant]]\nuser = "nobody"\nsecrets = ["*"]\n'
SHOW = """
import hashlib, json, os, signal, sys, time
def say(what):  # a handler may come in the middle of it: print() can't bear that
    os.write(1, json.dumps(what).encode() + b'\\n')
def show(*_):
    at = os.environ.get('VPS_SECRETS_FILES')
    of = lambda value: hashlib.sha256(value).hexdigest()[:8]
    files = {n: [of(open(at + '/' + n, 'rb').read()), oct(os.stat(at + '/' + n).st_mode & 0o777)]
             for n in sorted(os.listdir(at))} if at else {}
    env = {n: of(os.environb[n.encode()]) for n in ('A', 'B', 'C') if n in os.environ}
    say({'pid': os.getpid(), 'env': env, 'files': files, 'at': at})
signal.signal(signal.SIGHUP, show)
signal.signal(signal.SIGUSR1, lambda *_: say({'signal': 'USR1'}))
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
show()
while True:
    time.sleep(60)
"""


def short(value: bytes) -> str:
    """Return how SHOW says a value."""
    return hashlib.sha256(value).hexdigest()[:8]


@pytest.fixture
def world() -> World:
    """Two texts."""
    made = World()
    made.put("A", f"{CANARY}-1".encode())
    made.put("B", b"b")
    return made


@pytest.fixture
def agent(world: World) -> Iterator[Agent]:
    """An agent that is ready; nobody may read, too."""
    with Agent(lambda directory: fake_configuration(directory, world, GRANT)[1]) as made:
        made.start().until_ready()
        made.app.chmod(0o666)
        made.directory.chmod(0o755)
        yield made


class Run:
    """One ``vps-secrets run``; its lines are JSON."""

    def __init__(self, agent: Agent, *words: str, uid: int | None = None, **options: Any) -> None:
        self._copy = None if uid is None else tempfile.TemporaryDirectory(prefix="vsa-run-")
        code = Path(self._copy.name) if self._copy else ROOT
        if self._copy:
            code.chmod(0o755)
            for part in ("agent", "common"):
                shutil.copytree(ROOT / part, code / part, ignore=shutil.ignore_patterns("__pycache__"))
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(code)}
        python = sys.executable if uid is None else SYSTEM_PYTHON
        command = [python, "-m", "agent.cli", "run", "--socket", str(agent.app), *words]
        self.process = subprocess.Popen(
            command,
            cwd=code,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            user=uid,
            group=uid,
            extra_groups=None if uid is None else [],
            **options,
        )

    def line(self) -> Any:
        """Return what the command printed next."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.rest()
        return json.loads(line)

    def rest(self) -> tuple[int, str, str]:
        """Wait for the end; return status, output and errors."""
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out.decode(), err.decode()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(30)
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
        if self._copy:
            self._copy.cleanup()


def rotate(agent: Agent, world: World, name: str, value: bytes) -> None:
    """Have a new value served."""
    world.rotate(name, value)
    refresh(agent)


def refresh(agent: Agent) -> None:
    """Have the agent read; it takes one order a second."""
    while (status := agent.ask_control("/v1/refresh", "POST").status) == 429:
        time.sleep(0.2)
    assert status == 200


SHOWN = ("--", SYSTEM_PYTHON, "-c", SHOW)


def test_the_environment_of_a_command_that_takes_our_place(agent: Agent) -> None:
    """It has our process id, its secrets and the rest of the environment; signals are its own affair."""
    with Run(agent, *SHOWN) as run:
        said = run.line()
        assert said["pid"] == run.process.pid, "exec: nothing of ours stays"
        assert said["env"] == {"A": short(f"{CANARY}-1".encode()), "B": short(b"b")}
        run.process.send_signal(signal.SIGTERM)
        assert run.rest() == (7, "", "")


@pytest.mark.parametrize("words", [(), ("--restart",)])
@pytest.mark.parametrize(
    ("command", "status"),
    [
        (["sh", "-c", "exit 3"], 3),
        (["sh", "-c", "kill -KILL $$"], 128 + signal.SIGKILL),
        (["/nowhere/program"], 127),
        (["/etc/passwd"], 126),
        (["sh", "-c", 'test "$1" = -- && test "$2" = --names', "sh", "--", "--names"], 0),
    ],
)
def test_statuses_are_those_of_a_shell(
    agent: Agent, words: tuple[str, ...], command: list[str], status: int
) -> None:
    """Of the command, and 126 and 127 where it can't be started; its options stay its own."""
    with Run(agent, *words, "--", *command) as run:
        code, _, err = run.rest()
    killed = not words and status > 128  # the command has taken our place, and was killed itself
    assert code == (128 - status if killed else status), err
    assert (command[0] in err) == (status in {126, 127})


def test_restart_at_a_change(agent: Agent, world: World) -> None:
    """With the new value in a new process; a change of what it did not get is none."""
    with Run(agent, "--restart", "--debounce", "0", "--names", "A", *SHOWN) as run:
        first = run.line()
        assert first["env"] == {"A": short(f"{CANARY}-1".encode())}
        rotate(agent, world, "B", b"b2")
        rotate(agent, world, "A", f"{CANARY}-2".encode())
        second = run.line()
        assert second["env"] == {"A": short(f"{CANARY}-2".encode())}
        assert second["pid"] != first["pid"]
        assert not Path(f"/proc/{first['pid']}").exists()
        run.process.send_signal(signal.SIGUSR1)
        assert run.line() == {"signal": "USR1"}
        run.process.send_signal(signal.SIGTERM)
        code, out, err = run.rest()
    assert (code, out) == (7, "")
    assert err.count("started again") == 1
    assert CANARY not in err


def test_a_command_that_does_not_end_is_killed(agent: Agent, world: World) -> None:
    """After --stop-timeout; the new one starts all the same."""
    stubborn = "import json, signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    stubborn += "print(json.dumps('up'), flush=True)\nwhile True: time.sleep(60)"
    words = ("--restart", "--debounce", "0", "--stop-timeout", "0.1", "--", sys.executable, "-c", stubborn)
    with Run(agent, *words) as run:
        assert run.line() == "up"
        rotate(agent, world, "A", b"2")
        assert run.line() == "up"
        run.process.send_signal(signal.SIGTERM)  # is passed on, and ignored by the command
        os.kill(_child(run.process.pid), signal.SIGKILL)
        assert run.rest()[0] == 128 + signal.SIGKILL


def _child(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


@pytest.mark.parametrize("uid", [None, NOBODY])
def test_files_and_a_signal(agent: Agent, world: World, uid: int | None) -> None:
    """In memory that only the command sees, also without privileges; written before the signal."""
    world.put("C", BINARY)
    refresh(agent)
    template = agent.directory / ".env.tmpl"
    template.write_text("URL=db://{{A}}@host\n")
    template.chmod(0o644)
    words = ("--files", "--template", str(template), "--signal", "HUP", "--debounce", "0", "--mode", "0440")
    with Run(agent, *words, *SHOWN, uid=uid) as run:
        first = run.line()
        assert first["env"] == {}
        assert first["files"] == {
            ".env": [short(f"URL=db://{CANARY}-1@host\n".encode()), "0o440"],
            "A": [short(f"{CANARY}-1".encode()), "0o440"],
            "B": [short(b"b"), "0o440"],
            "C": [short(BINARY), "0o440"],
        }
        at = Path(first["at"])
        assert list(at.iterdir()) == [], "it lies in a namespace of its own"
        mounts = Path(f"/proc/{first['pid']}/mountinfo").read_text()
        mine = next(line for line in mounts.splitlines() if f" {at} " in line)
        assert " - ramfs " in mine
        assert {"nosuid", "nodev", "noexec"} <= set(mine.split()[5].split(","))
        rotate(agent, world, "A", f"{CANARY}-2".encode())
        second = run.line()
        assert second["pid"] == first["pid"]
        assert second["files"]["A"][0] == short(f"{CANARY}-2".encode())
        assert second["files"][".env"][0] == short(f"URL=db://{CANARY}-2@host\n".encode())


def test_the_directory_of_another_is_not_taken(agent: Agent, tmp_path: Path) -> None:
    """A link or a directory that somebody else made could be a trap."""
    trap = tmp_path / "trap"
    trap.symlink_to(tmp_path)
    for given in (trap, Path("/etc/passwd")):
        with Run(agent, "--files", "--directory", str(given), "--", "true") as run:
            code, _, err = run.rest()
        assert code == 125
        assert f"{given}: " in err
        assert "--directory" in err


def test_where_no_namespace_can_be_made(agent: Agent) -> None:
    """It says who does not allow it, and what does the same in a unit."""
    limit = Path("/proc/sys/user/max_mnt_namespaces")
    inner = (
        "import ctypes, os, sys; libc = ctypes.CDLL(None); libc.unshare(0x10000000) and sys.exit(99);"
        "open('/proc/self/setgroups', 'w').write('deny'); open('/proc/self/uid_map', 'w').write('0 0 1');"
        f"open('{limit}', 'w').write('0'); os.execv(sys.executable, [sys.executable] + sys.argv[1:])"
    )
    words = ["-m", "agent.cli", "run", "--socket", str(agent.app), "--files", "--", "true"]
    done = subprocess.run(
        [sys.executable, "-c", inner, *words],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 125, done.stderr
    assert "--files can't make a namespace" in done.stderr
    assert "LoadCredential=" in done.stderr


def test_ctrl_c_arrives_once(agent: Agent) -> None:
    """The terminal sends it to both; the command, which ends in its own way, decides."""
    counting = (
        "import json, os, signal, sys, time\nseen = []\n"
        "say = lambda what: os.write(1, json.dumps(what).encode() + b'\\n')\n"
        "signal.signal(signal.SIGINT, lambda *_: seen.append(1))\n"
        "signal.signal(signal.SIGTERM, lambda *_: (say(len(seen)), sys.exit(5)))\n"
        "say('up')\nwhile True: time.sleep(60)"
    )
    ours, theirs = pty.openpty()
    try:
        words = ("--restart", "--", sys.executable, "-c", counting)
        with Run(agent, *words, stdin=theirs, preexec_fn=_take_terminal) as run:
            assert run.line() == "up"
            os.write(ours, b"\x03")
            child = _child(run.process.pid)
            _until(lambda: not _pending(child) and not _pending(run.process.pid))
            run.process.send_signal(signal.SIGTERM)
            assert run.line() == 1
            assert run.rest()[0] == 5
    finally:
        os.close(ours)
        os.close(theirs)


def _take_terminal() -> None:
    os.setsid()
    import fcntl  # noqa: PLC0415  # between fork and exec
    import termios  # noqa: PLC0415

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _pending(pid: int) -> bool:
    """Return whether a signal waits for a process."""
    text = Path(f"/proc/{pid}/status").read_text()
    lines = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    return any(int(lines[key], 16) for key in ("SigPnd", "ShdPnd"))


def _until(condition: Any) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_it_waits_for_the_agent_and_for_names(world: World) -> None:
    """An agent that starts later, a secret that comes later; it says what it waits for, once each."""
    with (
        Agent(lambda directory: fake_configuration(directory, world, GRANT)[1]) as agent,
        Run(agent, "--names", "A,LATE", "--", "sh", "-c", 'printf %s "$LATE"') as run,
    ):
        assert run.process.stderr is not None
        assert b"waiting: " in run.process.stderr.readline()
        agent.start().until_ready()
        while b"no value for LATE" not in (line := run.process.stderr.readline()):
            assert b"waiting: " in line
        world.put("LATE", b"here")
        refresh(agent)
        assert run.rest() == (0, "here", "")


def test_what_never_comes(agent: Agent) -> None:
    """After --timeout: 125, with the name and what to look at."""
    with Run(agent, "--names", "NEVER", "--timeout", "0", "--", "true") as run:
        code, _, err = run.rest()
    assert code == 125
    assert "no value for NEVER" in err
    assert "vps-secrets explain" in err


def test_an_agent_that_is_killed_in_between(agent: Agent, world: World) -> None:
    """The command goes on; what rotated meanwhile arrives when the agent is back."""
    with Run(agent, "--restart", "--debounce", "0", *SHOWN) as run:
        run.line()
        assert agent.process is not None
        agent.process.kill()
        agent.process.wait()
        (agent.directory / "fetch.sock").unlink()
        world.rotate("A", b"away")
        agent.start().until_ready()
        assert run.line()["env"]["A"] == short(b"away")


def test_a_secret_that_goes(agent: Agent, world: World) -> None:
    """A command that needs it is not started again without it: it goes on with what it has, and says so."""
    text = agent.configuration.read_text()
    with Run(agent, "--restart", "--debounce", "0", "--names", "A,B", *SHOWN) as run:
        first = run.line()
        agent.write(text.replace('secrets = ["*"]', 'secrets = ["A"]'))
        agent.signal(signal.SIGHUP)
        agent.until(lambda: agent.get("/v1/secrets/B").status == 403)
        rotate(agent, world, "A", b"2")
        assert run.process.stderr is not None
        assert b"goes on with what it has: no value for B" in run.process.stderr.readline()
        agent.write(text)
        agent.signal(signal.SIGHUP)
        second = run.line()
        assert second["env"] == {"A": short(b"2"), "B": short(b"b")}
        assert second["pid"] != first["pid"]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--signal", "HUP"), "--signal needs --files"),
        (("--owner", "no-such-user", "--files"), "there is no user no-such-user"),
        (("--template", "/nowhere.tmpl"), "/nowhere.tmpl: No such file"),
    ],
)
def test_what_makes_no_sense_is_refused(agent: Agent, words: tuple[str, ...], reason: str) -> None:
    """With 125 and the reason, and the command is not started."""
    with Run(agent, *words, "--", "echo", "started") as run:
        code, out, err = run.rest()
    assert (code, out) == (125, "")
    assert reason in err


def test_a_value_that_the_environment_can_not_hold(agent: Agent, world: World) -> None:
    """Is said with the way out, and no part of it."""
    world.put("C", CANARY.encode() + BINARY)
    refresh(agent)
    with Run(agent, "--", "true") as run:
        code, _, err = run.rest()
    assert code == 125
    assert "zero byte can't be in the environment: C" in err
    assert CANARY not in err


def test_no_value_in_arguments_and_no_core(agent: Agent) -> None:
    """Of the process that stays: its user can't dump or trace it, and its own environment is clean."""
    with Run(agent, "--restart", *SHOWN) as run:
        run.line()
        own = Path(f"/proc/{run.process.pid}")
        assert CANARY.encode() not in (own / "cmdline").read_bytes() + (own / "environ").read_bytes()
        child = Path(f"/proc/{_child(run.process.pid)}")
        assert CANARY.encode() not in (child / "cmdline").read_bytes()
        assert CANARY.encode() in (child / "environ").read_bytes(), "what docs/applications.md warns of"
        # a process that can't be dumped: its /proc files are root's (proc(5)), shown with another user
    with Run(agent, "--restart", *SHOWN, uid=NOBODY) as run:
        run.line()
        assert Path(f"/proc/{run.process.pid}/environ").stat().st_uid == 0
