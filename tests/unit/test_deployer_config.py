"""deployer/config: every mistake at once, with file and key, never a value; the example has every key."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from common.errors import ConfigurationError
from deployer.config.model import BackupKind, Config, Credential, Role
from deployer.config.reader import load

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "packaging" / "deployer.toml"
READERS = sorted((ROOT / "deployer" / "config").glob("*.py"))
RECIPIENT = "age1" + "q" * 58
EXCLUSIVE = {"credential_file", "key_file", "pool", "pool_file", "pool_state"}
"""Keys that the example shows beside what they replace."""


def _load(tmp_path: Path, text: str) -> Config:
    path = tmp_path / "deployer.toml"
    path.write_text(text)
    return load(path)


def _mistakes(tmp_path: Path, text: str) -> dict[str, str]:
    with pytest.raises(ConfigurationError) as caught:
        _load(tmp_path, text)
    for mistake in caught.value.mistakes:
        assert mistake.file == str(tmp_path / "deployer.toml")
    return {mistake.key: mistake.expected for mistake in caught.value.mistakes}


def _uncommented(passing_over: set[str]) -> str:
    """Return the example with all that is commented out, but for these keys and the second of two choices."""
    lines = []
    for line in EXAMPLE.read_text().splitlines():
        match = re.fullmatch(r"# ((?:(\w+) = |\[).*)", line)
        lines.append(match[1] if match and match[2] not in passing_over else line)
    return "\n".join(lines)


def _asked() -> set[str]:
    """Return every key that the readers ask a table for."""
    keys = {"credential", "credential_file", "key", "key_file"}
    for path in READERS:
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(), attr=method), args=[ast.Constant(value=str(key)), *_]
                ) if method not in {"add", "fullmatch"} and re.fullmatch(r"[a-z_]+", key):
                    keys.add(key)
    return keys


def test_the_example_is_right() -> None:
    """The packaged file parses as it is; besides administrators only the report has a role, and may look."""
    config = load(EXAMPLE)
    assert [(rule.role, rule.group or rule.user) for rule in config.api.roles] == [
        (Role.OPERATOR, "vps-secrets-admin"),
        (Role.VIEWER, "vps-secrets-report"),
    ]
    assert config.keystone is not None
    assert config.api.socket.mode == 0o660
    assert config.api.tls is None
    assert config.worker.credential == Credential(name="barbican-credential")


def test_the_example_has_every_key_and_no_other(tmp_path: Path) -> None:
    """All that is commented out is right too, less what excludes each other."""
    text = EXAMPLE.read_text()
    shown = set(re.findall(r"(?m)^(?:# )?(\w+) = ", text)) | set(
        re.findall(r"(?m)^(?:# )?\[+([\w.]+)\]", text)
    )
    named = {part for key in shown for part in key.split(".")}
    assert len(_asked()) > 50
    assert _asked() - named == set()
    assert named - _asked() == set()
    beacon = re.sub(r"(?m)^directory = \"/srv.*$", "", _uncommented(EXCLUSIVE))
    config = _load(tmp_path, beacon)
    assert [server.port for server in config.postgresql.values()] == [5432]
    assert [backup.kind for backup in config.backups] == [BackupKind.DIRECTORY, BackupKind.SWIFT]
    assert config.backups[1].credential == Credential(name="backup-elsewhere")
    assert config.commands[Path("/usr/local/lib/recruitiq/webhook")].timeout == 30.0
    assert config.api.tls is not None
    assert (config.api.tls.host, config.api.tls.port) == ("192.0.2.10", 8443)


def test_what_the_example_shows_as_default_is_the_default(tmp_path: Path) -> None:
    """For the tables that have defaults for all that they show."""
    shown = _load(tmp_path, re.sub(r"(?m)^directory = \"/srv.*$", "", _uncommented(EXCLUSIVE)))
    bare = _load(tmp_path, "")
    assert shown.api.limits == bare.api.limits
    assert shown.database == bare.database
    assert shown.log_level == bare.log_level
    assert shown.registrar.key == bare.registrar.key
    for field in ("concurrency", "interval", "sweep", "lease", "calls_per_second", "burst", "credential"):
        assert getattr(shown.worker, field) == getattr(bare.worker, field), field
    for field in ("username", "user_domain", "domain", "project", "credential"):
        assert getattr(shown.registrar, field) == getattr(bare.registrar, field), field


def test_a_pool_needs_no_account(tmp_path: Path) -> None:
    """And whoever gives one is told so; without a pool its state has no effect."""
    config = _load(tmp_path, '[registrar]\npool_file = "/run/keys/pool.json"\n')
    assert config.registrar.pool == Credential(file=Path("/run/keys/pool.json"))
    mistakes = _mistakes(tmp_path, '[registrar]\npool = "p"\nusername = "x"\ncredential = "y"\n')
    assert set(mistakes) == {"registrar.username", "registrar.credential"}
    assert set(_mistakes(tmp_path, '[registrar]\npool_state = "/x"\n')) == {"registrar.pool_state"}


def test_an_empty_file_is_a_working_configuration_for_one_machine(tmp_path: Path) -> None:
    """SQLite, sockets below /run, nobody but root has a role."""
    config = _load(tmp_path, "")
    assert config.database.startswith("sqlite:///")
    assert config.api.hosts == ("localhost",)
    assert config.api.roles == ()
    assert config.blueprints == tmp_path / "blueprints"


def test_every_mistake_is_told_in_one_run(tmp_path: Path) -> None:
    """With its table and key; an unknown key says what it may have been meant for."""
    text = """
[database]
url = "postgresql+psycopg2://deployer:CANARY@db/deployer"
[api]
mode = "0666"
socket = "/run/vps-secrets-deployer/worker.sock"
hosts = ["UPPER"]
[api.tls]
address = "nowhere"
[api.limits]
body_byte = 1
[[role]]
role = "admin"
group = "a"
user = "b"
[worker]
credential = "x"
credential_file = "/y"
calls_per_second = 0
[[postgresql]]
name = "db1"
host = "db1"
database = "app"
[[backup]]
name = "b"
recipients = ["AGE-SECRET-KEY-1CANARY"]
[beacon]
"""
    found = _mistakes(tmp_path, text)
    assert set(found) == {
        *("database.url", "api.mode", "api.hosts", "api.tls.address", "api.tls.certificate"),
        *("api.tls.client_ca", "api.limits.body_byte", "role 1.role", "role 1", "worker.credential_file"),
        *(
            "worker.calls_per_second",
            "worker.socket",
            "postgresql 1.ca_file",
            "backup 1",
            "backup 1.recipients",
        ),
        "beacon",
    }
    assert "body_bytes" in found["api.limits.body_byte"]
    assert "CANARY" not in str(found)


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///relative.db",
        "sqlite://",
        "mysql://h/d",
        "postgresql+psycopg2://u:p@h/d",
        "postgresql+psycopg2:///d?password=p",
        "postgresql+psycopg2:///d?host=/run&PASSWORD=p",
    ],
)
def test_a_database_that_is_none_or_holds_a_password(tmp_path: Path, url: str) -> None:
    """Refused; the file is no place for a password."""
    assert set(_mistakes(tmp_path, f'[database]\nurl = "{url}"\n')) == {"database.url"}


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:////var/lib/d.db",
        "postgresql+psycopg2:///d?host=/run/postgresql",
        "postgresql+psycopg2://u@h:5432/d?sslmode=verify-full&passfile=/run/pgpass",
        "postgresql://u@h/d",
    ],
)
def test_databases(tmp_path: Path, url: str) -> None:
    """As SQLAlchemy writes them."""
    assert _load(tmp_path, f'[database]\nurl = "{url}"\n').database == url


@pytest.mark.parametrize(
    ("rule", "key"),
    [
        ('role = "viewer"\n', "role 1"),
        ('role = "Viewer"\ngroup = "a"\n', "role 1.role"),
        ('group = "a"\n', "role 1.role"),
        ('role = "viewer"\ncertificate = "CN=x"\n', "role 1.certificate"),
        ('role = "viewer"\ngroup = "a b"\n', "role 1.group"),
        ('role = "viewer"\ngroup = "a"\n[[role]]\nrole = "viewer"\ngroup = "a"\n', "role 2"),
    ],
)
def test_rules_that_give_a_role_to_nobody(tmp_path: Path, rule: str, key: str) -> None:
    """Each is a mistake: an operator would believe that it does something."""
    assert key in _mistakes(tmp_path, f"[[role]]\n{rule}")


@pytest.mark.parametrize("address", ["[2001:db8::1]:8443", "127.0.0.1:1", "host.example:65535"])
def test_addresses_of_tls(tmp_path: Path, address: str) -> None:
    """With a port, and IPv6 in brackets."""
    text = f'[api.tls]\naddress = "{address}"\ncertificate = "/c"\nclient_ca = "/a"\n'
    tls = _load(tmp_path, text).api.tls
    assert tls is not None
    assert address in {f"{tls.host}:{tls.port}", f"[{tls.host}]:{tls.port}"}


@pytest.mark.parametrize("address", ["host", "host:0", "host:65536", "::1:8443", ":8443"])
def test_addresses_of_tls_that_are_none(tmp_path: Path, address: str) -> None:
    """Refused with an example of what is right."""
    text = f'[api.tls]\naddress = "{address}"\ncertificate = "/c"\nclient_ca = "/a"\n'
    assert set(_mistakes(tmp_path, text)) == {"api.tls.address"}


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ('[[backup]]\nname = "b"\ndirectory = "/d"\nswift = "https://s/c"\n', "backup 1"),
        ('[[backup]]\nname = "b"\ndirectory = "/d"\ncredential = "c"\n', "backup 1.credential"),
        ('[beacon]\nurl = "https://s/c"\ndirectory = "/d"\n', "beacon"),
        ('[[command]]\ntimeout = "1s"\n', "command 1.path"),
        ('[[command]]\npath = "/a"\n[[command]]\npath = "/a"\n', "command 2.path"),
        ('[[postgresql]]\nname = "a"\nhost = "/run"\ndatabase = "D"\n', "postgresql 1.database"),
    ],
)
def test_what_the_worker_reaches(tmp_path: Path, table: str, key: str) -> None:
    """Told at the table's place in the file."""
    text = table.replace('name = "b"\n', f'name = "b"\nrecipients = ["{RECIPIENT}"]\n')
    assert set(_mistakes(tmp_path, text)) == {key}


def test_two_of_one_name(tmp_path: Path) -> None:
    """The second would hide the first."""
    server = '[[postgresql]]\nname = "a"\nhost = "/run/postgresql"\ndatabase = "d"\n'
    backup = f'[[backup]]\nname = "b"\ndirectory = "/d"\nrecipients = ["{RECIPIENT}"]\n'
    assert set(_mistakes(tmp_path, server * 2 + backup * 2)) == {"postgresql 2.name", "backup 2.name"}


def test_a_file_that_is_none(tmp_path: Path) -> None:
    """Its place is told, not its text."""
    assert "line 1" in _mistakes(tmp_path, "CANARY CANARY\n")["(file)"]
    (tmp_path / "deployer.toml").write_bytes(b"\xff")
    with pytest.raises(ConfigurationError, match="UTF-8"):
        load(tmp_path / "deployer.toml")
    with pytest.raises(ConfigurationError, match="can't be read"):
        load(tmp_path / "absent.toml")
