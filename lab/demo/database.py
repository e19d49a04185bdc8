"""A real PostgreSQL for the demo, and a client that reads and writes all the time with the agent's URL."""

from __future__ import annotations

import contextlib
import secrets
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import psycopg2

from common.names import SecretName
from deployer.config.zones import zone
from deployer.core.blueprint import parse
from deployer.core.options import PostgresqlOptions
from deployer.kinds.postgresql_setup import setup_sql
from lab.testbed.postgresql import PROGRAMS, SUPERUSER, Postgresql
from lab.testbed.repeating import Repeating

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab.testbed.running import Agent

VERSION: Final = "15"
NAME: Final = SecretName("DATABASE_URL")
OWNER: Final = "app_owner"
VPS: Final = "vps-new-001"
"""The one that uses it."""


def is_there() -> bool:
    """Return whether this machine has PostgreSQL's programs."""
    return (PROGRAMS / VERSION / "bin" / "postgres").exists()


class Client(Repeating):
    """Reads its URL from the agent, and makes transactions, each with a connection of its own."""

    def __init__(self, agent: Agent) -> None:
        super().__init__()
        self._agent = agent
        self.queries = 0
        self.failed = 0
        self.roles: list[str] = []

    def once(self) -> None:
        """Make one."""
        url = self._agent.get(f"/v1/secrets/{NAME}").body.decode()
        try:
            with contextlib.closing(psycopg2.connect(url)) as link, link, link.cursor() as cursor:
                cursor.execute("INSERT INTO entries DEFAULT VALUES RETURNING session_user")
                role = str(cursor.fetchone()[0])  # type: ignore[index]
        except psycopg2.Error:
            self.failed += 1
        else:
            self.queries += 1
            if role not in self.roles:
                self.roles.append(role)


class Database:
    """The server, set up as its administrator does once for ``vps_id``. A context manager."""

    def __init__(self, folder: Path, vps_id: str = VPS) -> None:
        self._vps_id = vps_id
        self.server = Postgresql()
        self._password = folder / "rotator-password"
        self._password.touch(0o600)
        self._password.write_text(secrets.token_urlsafe(24))
        url = "postgresql://{role}:{password}@/{database}?host={host}&port={port}"
        self.secret = (
            f'[{NAME}]\nkind = "postgresql"\nserver = "db1"\nroles = ["app_a", "app_b"]\n'
            f'template = "{url}"\nrotate = "30d"\n'
        )
        self.configuration = (
            f'[[postgresql]]\nname = "db1"\nhost = "{self.server.directory}"\ndatabase = "postgres"\n'
            f'user = "vps_rotator"\ncredential_file = "{self._password}"\n'
        )

    def __enter__(self) -> Self:
        self.server.__enter__()
        options = parse(self.secret.encode(), Path("demo.toml"), zone).secrets[NAME].options
        assert isinstance(options, PostgresqlOptions)  # noqa: S101  # it is what was written above
        self.sql(f"CREATE ROLE {OWNER} NOLOGIN")
        self.sql(setup_sql(options, database="postgres", owners={self._vps_id: OWNER}))
        self.sql(f"ALTER ROLE vps_rotator PASSWORD '{self._password.read_text()}'")
        self.sql(f"CREATE TABLE entries (at timestamptz DEFAULT now()); ALTER TABLE entries OWNER TO {OWNER}")
        return self

    def __exit__(self, *_: object) -> None:
        self.server.close()

    @contextlib.contextmanager
    def client(self, agent: Agent) -> Iterator[Client]:
        """Run a client while the block lasts."""
        with Client(agent) as client:
            yield client

    def sql(self, text: str) -> None:
        """Have its administrator say something."""
        where = ["-h", str(self.server.directory), "-U", SUPERUSER, "-d", "postgres"]
        subprocess.run(
            ["/usr/bin/psql", "--quiet", "--no-psqlrc", "-v", "ON_ERROR_STOP=1", *where],
            input=text,
            text=True,
            capture_output=True,
            check=True,
        )
