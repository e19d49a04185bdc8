"""A real PostgreSQL on a Unix socket in a temporary directory, with one database and its superuser.

`with Postgresql() as server: open_database(server.url)`. The directory is its own user's alone, so nobody
else reaches the socket: the superuser needs no password there, every other role needs its own (SCRAM).
The server refuses to run as root, so root starts it as the user that Debian's package made. It ends with
this process.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from lab.testbed.service import TestbedError

if TYPE_CHECKING:
    from collections.abc import Mapping

PROGRAMS: Final = Path("/usr/lib/postgresql")
SUPERUSER: Final = "deployer"
START_S: Final = 60.0
# What is tested is the program that uses it, not whether the machine survives a loss of power.
SETTINGS: Final = {
    "listen_addresses": "",
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "64MB",
}
ACCESS: Final = f"""\
local all {SUPERUSER} trust
local all all scram-sha-256
host all all 127.0.0.1/32 scram-sha-256
"""


class Postgresql:
    """One server. Owns its directory and its process. ``version`` is the major one, of Debian's package.

    The environment variable ``POSTGRESQL_PROGRAMS`` names a folder of programs of another version instead,
    for a run of tests on that: ``POSTGRESQL_PROGRAMS=/usr/lib/postgresql/17/bin``.
    """

    def __init__(self, settings: Mapping[str, str] = {}, version: str = "15") -> None:
        folder = os.environ.get("POSTGRESQL_PROGRAMS")
        self._programs = Path(folder) if folder else PROGRAMS / version / "bin"
        if not (self._programs / "postgres").exists():
            raise TestbedError(f"PostgreSQL {version} is missing: sudo apt-get install postgresql-{version}")
        self._settings = {**SETTINGS, **settings}
        self._as_user: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None
        self.directory = Path(tempfile.mkdtemp(prefix="pg-"))
        """Of the socket: ``host=`` of a client."""
        if os.geteuid() == 0:
            account = pwd.getpwnam("postgres")
            os.chown(self.directory, account.pw_uid, account.pw_gid)
            self._as_user = [f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
        self.log = self.directory / "log"

    @property
    def url(self) -> str:
        """Return the address of the database ``postgres`` as its superuser, for SQLAlchemy."""
        return f"postgresql+psycopg2://{SUPERUSER}@/postgres?host={self.directory}"

    def start(self) -> None:
        """Start the server, on the data of before if there are any, and wait until it answers.

        Raises:
            TestbedError: it did not; the text has the end of its log.
        """
        data = self.directory / "data"
        if not data.exists():
            self._run("initdb", "--no-sync", "--encoding=UTF8", "--locale=C.UTF-8", f"--username={SUPERUSER}")
            (data / "pg_hba.conf").write_text(ACCESS)
        settings = {**self._settings, "unix_socket_directories": str(self.directory)}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command("postgres", *(f"--{name}={value}" for name, value in settings.items())),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,  # Ctrl-C at the terminal is for whoever stops us in order
            )
        end = time.monotonic() + START_S
        port = f"--port={settings.get('port', '5432')}"
        ready = [str(self._programs / "pg_isready"), "--quiet", f"--host={self.directory}", port]
        while subprocess.run(ready, check=False).returncode:
            if self._process.poll() is not None or time.monotonic() > end:
                self.stop(signal.SIGQUIT)
                raise TestbedError(f"PostgreSQL was not ready; its log ends:\n{self._log_tail()}")
            time.sleep(0.05)

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """End the server and keep its data. SIGINT ends every session at once, SIGQUIT is a crash."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            process.wait()

    def close(self) -> None:
        """End the server and delete its data."""
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def program(self, name: str) -> Path:
        """Return a program of this version, such as ``psql``."""
        return self._programs / name

    def _command(self, program: str, *arguments: str) -> list[str]:
        """Return a command that runs as the server's user and ends when this process does."""
        prefix = ["setpriv", "--pdeathsig=QUIT", *self._as_user]
        return [*prefix, str(self._programs / program), "-D", str(self.directory / "data"), *arguments]

    def _run(self, program: str, *arguments: str) -> None:
        with self.log.open("ab") as log:
            done = subprocess.run(
                self._command(program, *arguments), stdout=log, stderr=log, cwd="/", check=False
            )
        if done.returncode:
            raise TestbedError(f"{program} failed; its log ends:\n{self._log_tail()}")

    def _log_tail(self) -> str:
        return self.log.read_text(errors="replace")[-3000:]
