"""deployer/kinds/registry.py: every kind that a blueprint may name, with what deployer.toml says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest

from deployer.config.model import Command as CommandRule
from deployer.config.model import Credential, PostgresqlServer
from deployer.config.reader import load
from deployer.core.options import READERS
from deployer.kinds.command import Command
from deployer.kinds.external import External
from deployer.kinds.kind import KindError
from deployer.kinds.postgresql import Postgresql
from deployer.kinds.postgresql_link import Login, Server, ask
from deployer.kinds.registry import registry
from tests.unit.test_manual import ROOT

CONFIG = """
[keystone]
auth_url = "https://keystone.example.org/v3"
[[postgresql]]
name = "db1"
host = "/run/postgresql"
database = "app"
credential_file = "/run/keys/db1"
[[command]]
path = "/usr/local/lib/a"
credential = "a-provider"
timeout = "20s"
[[command]]
path = "/usr/local/lib/b"
"""


def test_each_kind_of_a_blueprint_is_there(tmp_path: Path) -> None:
    """With its servers, its executables, and credentials that are read when they are needed."""
    file = tmp_path / "deployer.toml"
    file.write_text(CONFIG)
    read: list[Credential] = []

    def reading(credential: Credential) -> bytes:
        read.append(credential)
        return b"x"

    config, given = load(file), External()
    assert isinstance(config.postgresql["db1"], PostgresqlServer)
    assert all(isinstance(rule, CommandRule) for rule in config.commands.values())
    kinds = registry(config, reading, given)
    assert kinds.keys() == READERS.keys()
    assert {name: kind.name for name, kind in kinds.items()} == {name: name for name in READERS}
    assert kinds["external"] is given
    postgresql, command = kinds["postgresql"], kinds["command"]
    assert isinstance(postgresql, Postgresql)
    assert isinstance(command, Command)
    assert read == []
    server = postgresql._servers["db1"]
    assert (server.host, server.port, server.database, server.user) == (
        *("/run/postgresql", 5432, "app"),
        "vps_rotator",
    )
    rules = command._rules
    assert {path: rule.timeout for path, rule in rules.items()} == {
        PurePosixPath("/usr/local/lib/a"): 20.0,
        PurePosixPath("/usr/local/lib/b"): 30.0,
    }
    with_credential, without = (rules[PurePosixPath(f"/usr/local/lib/{name}")] for name in "ab")
    assert without.credential is None
    assert with_credential.credential is not None
    assert with_credential.credential() == server.password() == b"x"
    assert read == [Credential(name="a-provider"), Credential(file=Path("/run/keys/db1"))]


def test_a_site_without_postgresql_needs_no_driver_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every program starts without psycopg2; a blueprint that needs it is told which package is missing."""
    programs = ("api", "worker", "registrar", "cli")
    script = "import sys; sys.modules['psycopg2'] = None\n" + "".join(
        f"import deployer.{name}.__main__\n" for name in programs
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    server = Server("db1", str(tmp_path), 5432, "app", "vps_rotator", lambda: b"password")
    with pytest.raises(KindError, match="needs the package python3-psycopg2, which is missing"):
        ask(server, "ask the server", Login("vps_rotator", "password", "app"), lambda *_: None)
