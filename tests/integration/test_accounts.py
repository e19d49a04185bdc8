"""Who a caller is, is found out when it matters: users that come and go, units after a reload."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, TYPE_CHECKING

import pytest

from lab.testbed.fakes.fetch_server import World
from lab.testbed.running import ROOT, Agent, Caller, UnixConnection, fake_configuration
from tests.integration.test_units import unit

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["unit"]
UID = 64321
LATER = Caller(UID, 65533)
STRANGER = Caller(64300, 65533)
USER = f"vsa-later:x:{UID}:65533::/:/bin/false\n"
GRANTS = '[[grant]]\nuser = "vsa-later"\nsecrets = ["*"]\n'


class WithAccounts(Agent):
    """An agent that sees an account file of its own in place of /etc/passwd.

    At a FIFO in its place a look-up hangs, as it does at an SSSD or an LDAP server that does not answer; with
    ``hangs`` it is there from the start on.
    """

    hangs = False

    def accounts(self, line: str = "") -> None:
        """Write the file: this machine's accounts, and a line more."""
        (self.directory / "passwd").write_text(Path("/etc/passwd").read_text() + line)

    def groups(self, without: str = "") -> None:
        """Write this machine's groups, one of them left out."""
        lines = Path("/etc/group").read_text().splitlines(keepends=True)
        (self.directory / "group").write_text("".join(x for x in lines if x.split(":")[0] != without))

    def launch(self, log: IO[bytes]) -> subprocess.Popen[bytes]:
        """Start it in a mount namespace."""
        self.accounts()
        self.groups()
        os.mkfifo(self.directory / "fifo")
        with socket.socket(socket.AF_UNIX) as unreadable:
            unreadable.bind(str(self.directory / "unreadable"))
        hanging = 'mount --bind "$1/fifo" /etc/passwd && ' if self.hangs else ""
        inside = (
            'mount --bind "$1/passwd" /etc/passwd && mount --bind "$1/group" /etc/group && '
            f'{hanging}exec "$2" -m agent.serve --config "$3"'
        )
        line = ["unshare", "--mount", "sh", "-c", inside, "sh"]
        return subprocess.Popen(
            [*line, str(self.directory), sys.executable, str(self.configuration)],
            cwd=ROOT,
            env=os.environ | self._environ,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )

    def mount(self, file: str, over: str = "/etc/passwd") -> None:
        """Put a file of its directory over another one, for the agent only."""
        self._inside("mount", "--bind", str(self.directory / file), over)

    def unmount(self, over: str = "/etc/passwd") -> None:
        """Take the file away that :meth:`mount` has put there last."""
        self._inside("umount", "--lazy", over)

    def _inside(self, *command: str) -> None:
        assert self.process is not None
        subprocess.run(
            ["nsenter", "--mount", "--target", str(self.process.pid), *command], check=True, timeout=20
        )

    def let_go(self) -> None:
        """End the look-up that hangs at the FIFO, without an answer; those that follow do not hang."""
        self.unmount()
        os.close(os.open(self.directory / "fifo", os.O_WRONLY))  # opened once both are there

    @contextlib.contextmanager
    def delayed(self) -> Iterator[None]:
        """Have look-ups hang meanwhile, and then have their answer: by a lease on the file (fcntl(2))."""
        former = signal.signal(signal.SIGIO, signal.SIG_IGN)  # it says that somebody wants to open the file
        with (self.directory / "passwd").open("r+b") as file:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            yield
        signal.signal(signal.SIGIO, former)

    def warns(self, text: str) -> bool:
        """Return whether the status warns so."""
        return text in str(self.status()["warnings"])


def made(environ: dict[str, str] | None = None, extra: str = "") -> WithAccounts:
    """Return one with a grant for a user that does not exist yet."""
    world = World()
    world.put("A", b"a")
    return WithAccounts(lambda directory: fake_configuration(directory, world, extra + GRANTS)[1], environ)


def is_answered(connection: socket.socket, seconds: float) -> bool:
    """Return whether an answer comes within so many seconds."""
    return bool(select.select([connection], [], [], seconds)[0])


def waiting(agent: Agent) -> socket.socket:
    """Return a connection that waits for a look-up that hangs; root is granted nothing."""
    while True:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(90)
        connection.connect(str(agent.app))
        connection.sendall(b"GET /v1/secrets/A HTTP/1.1\r\nHost: a\r\n\r\n")
        if not is_answered(connection, 0.3):
            return connection
        connection.close()  # refused at once, since there was a look-up shortly before


@pytest.fixture
def agent() -> Iterator[WithAccounts]:
    """One that is ready."""
    with made() as agent:
        agent.start().until_ready()
        yield agent


def test_a_user_that_is_made_later_is_served_without_a_reload(agent: WithAccounts) -> None:
    """And explain says the same."""
    assert LATER.ask(agent.app, "/v1/secrets/A") == (403, "not-granted")
    agent.accounts(USER)
    agent.until(lambda: LATER.ask(agent.app, "/v1/secrets/A") == (200, ""))
    assert agent.ask_control("/v1/explain?user=vsa-later&name=A").json["allowed"] is True
    assert agent.status()["warnings"] == []


def test_a_uid_that_another_user_has_is_refused_after_the_next_cycle(agent: WithAccounts) -> None:
    """It is the user that was granted something, not the number; the log says so."""
    agent.accounts(USER)
    agent.until(lambda: LATER.ask(agent.app, "/v1/secrets/A") == (200, ""))
    agent.accounts(f"vsa-other:x:{UID}:65533::/:/bin/false\n")
    agent.until(lambda: agent.ask_control("/v1/refresh", "POST").status == 200)
    agent.until(lambda: LATER.ask(agent.app, "/v1/secrets/A") == (403, "not-granted"))
    assert f"the user has the id none now, {UID} before; {UID} is the user vsa-other now" in agent.log
    agent.accounts(f"vsa-later:x:{UID + 1}:65533::/:/bin/false\n")
    agent.until(lambda: Caller(UID + 1, 65533).ask(agent.app, "/v1/secrets/A") == (200, ""))
    assert LATER.ask(agent.app, "/v1/secrets/A") == (403, "not-granted")


def test_administrators_follow_their_group(agent: WithAccounts) -> None:
    """Without it nobody but root is one, from the next look-up on; with it again they are at once."""
    agent.control.chmod(0o666)
    admin = Caller(65533, 65533, (60,))
    assert admin.ask(agent.control, "/v1/status") == (200, "")
    agent.groups(without="games")
    agent.ask_control("/v1/explain?user=root&name=A")  # it looks them up
    assert admin.ask(agent.control, "/v1/status") == (403, "not-admin")
    assert "the group games does not exist" in str(agent.status()["warnings"])
    agent.groups()
    agent.until(lambda: admin.ask(agent.control, "/v1/status") == (200, ""))


def test_a_look_up_that_hangs_keeps_nobody_from_reading(tmp_path: Path) -> None:
    """Whoever was granted something reads on, others are refused, the watchdog is fed, and the end comes."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(90)
        environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "400000"}
        with made(environ) as agent:
            agent.start().until_ready()
            agent.accounts(USER)
            agent.until(lambda: LATER.ask(agent.app, "/v1/secrets/A") == (200, ""))
            agent.mount("fifo")
            with waiting(agent) as connection:
                reads = 0
                while not is_answered(connection, 0):
                    assert LATER.ask(agent.app, "/v1/secrets/A") == (200, "")
                    reads += 1
                assert connection.recv(65536).startswith(b"HTTP/1.1 403 ")
            assert reads > 1
            assert STRANGER.ask(agent.app, "/v1/secrets/A") == (403, "not-granted"), "at once, since it hangs"
            assert LATER.ask(agent.app, "/v1/secrets/A") == (200, "")
            assert agent.warns("the system's user database has not answered for ")
            assert agent.ask_control("/v1/explain?user=root&name=A").problem == "accounts-unavailable"
            assert agent.ask_control("/v1/refresh", "POST").status == 200
            assert "vps_secrets_accounts_unavailable 1" in agent.ask_control("/metrics").body.decode()
            told = ""
            while "WATCHDOG=1" not in told or "the system's user database has not answered" not in told:
                told = systemd.recv(65536).decode()
            agent.let_go()
            agent.until(lambda: not agent.warns("the system's user database"))
            assert "the system's user database answers again" in agent.log
            agent.mount("fifo")
            assert STRANGER.ask(agent.app, "/v1/secrets/A") == (403, "not-granted")
            assert agent.stop() == 0


def test_an_agent_that_starts_while_look_ups_hang() -> None:
    """It comes up; grants by user wait for the answer, which the status says."""
    with made() as agent:
        agent.hangs = True
        agent.start().until_ready()
        assert LATER.ask(agent.app, "/v1/secrets/A") == (403, "not-granted")
        assert agent.warns("not known so far: group games, user vsa-later")
        assert "not known so far: group games, user vsa-later" in agent.log
        agent.accounts(USER)
        agent.let_go()
        agent.until(lambda: LATER.ask(agent.app, "/v1/secrets/A") == (200, ""))
        assert agent.status()["warnings"] == []


def test_an_end_does_not_wait_for_a_look_up(agent: WithAccounts) -> None:
    """A caller that waits for one is refused then, and so is the record."""
    agent.mount("fifo")
    with waiting(agent) as connection:
        agent.signal(signal.SIGTERM)
        assert connection.recv(65536).startswith(b"HTTP/1.1 403 ")
    assert agent.stop() == 0


def test_a_caller_that_leaves_before_it_is_refused_was_refused(agent: WithAccounts) -> None:
    """In the record: nothing was served to it."""
    agent.mount("fifo")
    with waiting(agent):
        before = len(agent.audit())
    agent.until(lambda: len(agent.audit()) > before)
    record = agent.audit()[-1]
    assert (record["outcome"], record["status"], record["reason"]) == ("denied", 403, "not-granted")
    assert record["secrets"] == {"A": None}


def test_a_look_up_from_before_a_reload_brings_no_former_grant_back(agent: WithAccounts) -> None:
    """It ends after the reload, with the answer to what the former configuration named."""
    agent.accounts(USER + f"vsa-other:x:{UID + 1}:65533::/:/bin/false\n")
    with agent.delayed(), waiting(agent):
        agent.write(agent.configuration.read_text().replace('"vsa-later"', '"vsa-other"'))
        agent.signal(signal.SIGHUP)
        agent.until(lambda: agent.warns("not known so far: user vsa-other"))
    agent.until(lambda: Caller(UID + 1, 65533).ask(agent.app, "/v1/secrets/A") == (200, ""))
    assert LATER.ask(agent.app, "/v1/secrets/A") == (403, "not-granted")


def test_a_database_that_can_not_be_asked_takes_no_grant_away(agent: WithAccounts) -> None:
    """Neither does one that says "not found" after it. The user is gone once all of them can be asked."""
    agent.accounts(USER)
    agent.until(lambda: LATER.ask(agent.app, "/v1/secrets/A") == (200, ""))
    agent.accounts()
    agent.mount("unreadable")  # nsswitch.conf says "files systemd", and systemd knows no such user
    agent.until(lambda: agent.ask_control("/v1/refresh", "POST").status == 200)
    agent.until(lambda: agent.warns("can't tell about user vsa-later (No such device or address)"))
    assert LATER.ask(agent.app, "/v1/secrets/A") == (200, "")
    assert agent.ask_control("/v1/explain?user=vsa-later&name=A").problem == "accounts-unavailable"
    agent.unmount()
    agent.until(lambda: agent.ask_control("/v1/refresh", "POST").status == 200)
    agent.until(lambda: LATER.ask(agent.app, "/v1/secrets/A") == (403, "not-granted"))
    assert not agent.warns("can't tell about")


def test_a_reload_that_grants_something_ends_the_wait_for_a_change(agent: WithAccounts) -> None:
    """The watcher may read more from now on; nothing else has changed."""
    agent.accounts(USER)
    agent.write(agent.configuration.read_text().replace('["*"]', '["B"]'))
    agent.signal(signal.SIGHUP)
    agent.until(lambda: LATER.ask(agent.app, "/v1/secrets/B") == (404, "no-such-secret"))
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(LATER.ask, agent.app, "/v1/watch?timeout=15")
        agent.until(lambda: agent.status()["watchers"] == 1)
        agent.write(agent.configuration.read_text().replace('["B"]', '["*"]'))
        agent.signal(signal.SIGHUP)
        assert waiting.result() == (200, "")


def test_who_is_a_stranger_is_counted_anew_with_the_grants() -> None:
    """Connections of a user that was made after them do not use up the strangers' share, a quarter of 8."""
    with made(extra="[app.limits]\nconnections = 8\n") as agent, contextlib.ExitStack() as held:
        agent.start().until_ready()
        for _ in range(2):
            connection = held.enter_context(socket.socket(socket.AF_UNIX))
            os.seteuid(UID)
            connection.connect(str(agent.app))
            os.seteuid(0)
        agent.until(lambda: STRANGER.ask(agent.app, "/v1/secrets/A") == (503, "too-many-connections"))
        agent.accounts(USER)
        assert agent.ask_control("/v1/explain?user=vsa-later&name=A").json["allowed"] is True
        agent.until(lambda: STRANGER.ask(agent.app, "/v1/secrets/A") == (403, "not-granted"))
        agent.accounts()
        assert agent.ask_control("/v1/explain?user=root&name=A").json["allowed"] is False
        agent.until(lambda: STRANGER.ask(agent.app, "/v1/secrets/A") == (503, "too-many-connections"))


def test_a_unit_that_a_reload_brings_is_found_on_a_kept_connection(unit: Path) -> None:
    """It gets 403, not an empty bundle, before; and its values after."""
    world = World()
    world.put("A", b"a")
    with Agent(lambda directory: fake_configuration(directory, world)[1]) as agent:
        agent.start().until_ready()
        reader, writer = os.pipe()
        pid = os.fork()
        if not pid:
            (unit / "cgroup.procs").write_text(str(os.getpid()))
            connection = UnixConnection(agent.app)
            statuses = []
            while 200 not in statuses:
                connection.request("GET", "/v1/bundle")
                response = connection.getresponse()
                response.read()
                statuses.append(response.status)
                os.write(writer, b"%d\n" % response.status)
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as statuses_read:
            assert statuses_read.readline() == "403\n"
            text = agent.configuration.read_text()
            agent.write(text + '[[grant]]\nunit = "vsa-test.service"\nsecrets = ["*"]\n')
            agent.signal(signal.SIGHUP)
            assert set(statuses_read.read().split()) <= {"403", "200"}
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
