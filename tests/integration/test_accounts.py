"""Who a caller is, is found out when it matters: users that come and go, units after a reload."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
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
GRANTS = '[[grant]]\nuser = "vsa-later"\nsecrets = ["*"]\n'


class WithAccounts(Agent):
    """An agent that sees an account file of its own in place of /etc/passwd."""

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
        inside = (
            'mount --bind "$1/passwd" /etc/passwd && mount --bind "$1/group" /etc/group && '
            'exec "$2" -m agent.serve --config "$3"'
        )
        line = ["unshare", "--mount", "sh", "-c", inside, "sh"]
        return subprocess.Popen(
            [*line, str(self.directory), sys.executable, str(self.configuration)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )


@pytest.fixture
def agent() -> Iterator[WithAccounts]:
    """One with a grant for a user that does not exist yet."""
    world = World()
    world.put("A", b"a")
    with WithAccounts(lambda directory: fake_configuration(directory, world, GRANTS)[1]) as made:
        made.start().until_ready()
        yield made


def test_a_user_that_is_made_later_is_served_without_a_reload(agent: WithAccounts) -> None:
    """And explain says the same."""
    assert LATER.ask(agent.app, "/v1/secrets/A") == (403, "not-granted")
    agent.accounts(f"vsa-later:x:{UID}:65533::/:/bin/false\n")
    agent.until(lambda: LATER.ask(agent.app, "/v1/secrets/A") == (200, ""))
    assert agent.ask_control("/v1/explain?user=vsa-later&name=A").json["allowed"] is True
    assert agent.status()["warnings"] == []


def test_a_uid_that_another_user_has_is_refused_after_the_next_cycle(agent: WithAccounts) -> None:
    """It is the user that was granted something, not the number; the log says so."""
    agent.accounts(f"vsa-later:x:{UID}:65533::/:/bin/false\n")
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
