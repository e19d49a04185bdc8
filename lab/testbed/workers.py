"""Workers, as processes, on one database: with a fake Barbican for what only many rotations show."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from sqlalchemy import select, update

from deployer.database import blueprints, schema, vpses
from deployer.database.engine import open_database
from deployer.database.migrating import migrate
from lab.testbed.fakes.registrar import FakeRegistrar
from lab.testbed.running import UnixConnection

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from lab.testbed.fakes.barbican import FakeBarbican

ROOT: Final = Path(__file__).parents[2]
PAUSE_S: Final = 0.1
LEASE_S: Final = 5
ROTATE_S: Final = 30 * 86400.0
"""Of :func:`blueprint_of`."""
PAIR: Final = """
[JWT_SECRET]
kind = "random"
rotate = "30d"
group = "session"
[SESSION_SECRET]
kind = "random"
rotate = "30d"
group = "session"
"""


def blueprint_of(groups: int) -> str:
    """Return a blueprint of this many groups: one of two names, the others of one."""
    alone = (f'[NAME_{n}]\nkind = "random"\nrotate = "30d"\n' for n in range(1, groups))
    return PAIR + "".join(alone)


class Deployment:
    """Owns database, configuration and processes in ``folder``. Use as a context manager.

    ``url`` is the database's. ``worker`` and ``of_registrar`` are more of those tables of deployer.toml;
    ``credential`` is what the workers log in with: id and secret. Accounts are a fake's: each VPS has one at
    once.
    """

    def __init__(
        self,
        auth_url: str,
        barbican: str,
        folder: Path,
        url: str,
        *,
        worker: str = "",
        of_registrar: str = "",
        credential: tuple[str, str] = ("id", "nothing-secret"),
    ) -> None:
        self._auth_url = auth_url
        self._folder = folder
        self._url = url
        self.worker = worker or f'concurrency = 4\nsweep = "200ms"\nlease = "{LEASE_S}s"\n'
        self._of_registrar = of_registrar
        self._credential = credential
        self.barbican = barbican
        """Where the workers that are started from now on find Barbican."""
        self.processes: list[subprocess.Popen[bytes]] = []
        self.registrar = FakeRegistrar(folder / "registrar.sock")
        self.database = open_database(url)
        migrate(self.database)
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(self.registrar)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait()
        self._stack.close()
        self.database.close()

    def log(self) -> str:
        """Return what the workers have written."""
        return "".join(path.read_text() for path in sorted(self._folder.glob("worker-*.log")))

    def wish(self, ids: Collection[str], text: str) -> None:
        """Want VPSs with this blueprint."""
        with self.database.write() as c:
            blueprints.put(c, time.time(), "backend", text, "test")
            for vps_id in ids:
                vpses.wish(c, time.time(), vps_id, "backend", labels={}, actor="test")

    def start(self, number: int) -> subprocess.Popen[bytes]:
        """Start the worker of this number, again where it has ended; return when it listens."""
        folder = self._folder
        credential = folder / "worker-credential"
        credential.touch(0o600)
        credential.write_text(self._credential[1])
        path = folder / f"worker-{number}.toml"
        path.write_text(
            f'[database]\nurl = "{self._url}"\n[keystone]\nauth_url = "{self._auth_url}"\n'
            f'endpoint_override = "{self.barbican}"\n'
            f'[registrar]\nsocket = "{folder}/registrar.sock"\n{self._of_registrar}'
            f'[api]\nsocket = "{folder}/api.sock"\n'
            f'[worker]\nsocket = "{folder}/worker-{number}.sock"\n'
            f'application_credential_id = "{self._credential[0]}"\n'
            f'credential_file = "{credential}"\n{self._pace()}{self.worker}'
        )
        with (folder / f"worker-{number}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "deployer.worker", "--config", str(path)],
                cwd=ROOT,
                env=os.environ.copy(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.processes.append(process)
        return process

    def wake(self) -> None:
        """Tell the workers that there is something to do, as the API does."""
        for place in self._folder.glob("worker-*.sock"):
            connection = UnixConnection(place, timeout=60.0)
            with contextlib.suppress(ConnectionRefusedError), contextlib.closing(connection):
                connection.request("POST", "/wake", b"{}", {"Content-Type": "application/json"})
                connection.getresponse().read()

    def _pace(self) -> str:
        return "" if "calls_per_second" in self.worker else "calls_per_second = 10000\nburst = 10000\n"

    def until(self, holds: Callable[[], bool], what: str, seconds: float = 300.0) -> None:
        """Wait for a condition.

        Raises:
            AssertionError: it did not come; with the end of the workers' log.
        """
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end, f"{what}\n{self.log()[-6000:]}"
            time.sleep(PAUSE_S)

    def all_provisioned(self) -> bool:
        """Tell whether every VPS was looked at and has a container."""
        with self.database.read() as c:
            left = select(schema.vps.c.id).where(schema.vps.c.state.in_(["new", "provisioning", "joining"]))
            return c.execute(left.limit(1)).first() is None

    def ended(self, state: str = "listed") -> int:
        """Return how many rotations are in this state."""
        with self.database.read() as c:
            found = select(schema.rotation.c.id).where(schema.rotation.c.state == state)
            return len(c.execute(found).all())


class Workers(Deployment):
    """Workers on a fake Barbican; ``barbican`` is where they find it, if not there: a proxy that disturbs."""

    def __init__(
        self,
        fake: FakeBarbican,
        folder: Path,
        url: str,
        *,
        worker: str = "",
        of_registrar: str = "",
        barbican: str = "",
    ) -> None:
        address = barbican or fake.url
        super().__init__(fake.auth_url, address, folder, url, worker=worker, of_registrar=of_registrar)
        self.fake = fake

    def make_due(self, ago_s: float = 60.0) -> int:
        """Let the time of every secret that rotates have come; return how many groups that are.

        Barbican says so as well: the next look would take back what the database alone says.
        """
        back = ROTATE_S + ago_s
        current = schema.secret.c.state == "current", schema.secret.c.work_at.is_not(None)
        with self.database.write() as c:
            rows = c.execute(select(schema.secret).where(*current)).all()
            older = {"created": schema.version.c.created - back}
            for row in rows:
                self.fake.secrets[row.current].created -= back
                c.execute(update(schema.version).where(schema.version.c.uuid == row.current).values(**older))
            due = schema.secret.c.due - back
            older = {"created": schema.secret.c.created - back}
            c.execute(update(schema.secret).where(*current).values(due=due, work_at=due, **older))
        return len({(row.vps, row.grp) for row in rows})
