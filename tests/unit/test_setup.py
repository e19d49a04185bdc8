"""agent/cli/setup*.py: what it writes and keeps; the rest is in tests/system/test_setup.py."""

from __future__ import annotations

import base64
import os
import stat
import tomllib
from typing import TYPE_CHECKING

import pytest

from agent.cli import setup, setup_files, setup_machine
from agent.cli.__main__ import _parser
from agent.cli.setup_config import Given, UnchangeableError, added, changed
from agent.identity import ciphertext

if TYPE_CHECKING:
    from pathlib import Path

ARGUMENTS = ["setup", "--vps-id=v", "--container=c", "--auth-url=u", "--application-credential-id=i"]
FIRST = Given("v", "c", "u", "i", user="app", secrets=("*",))
BY_HAND = """\
# mine
vps_id = "v" # this one
container = "c"

[rotation]
poll_interval = "5m" # often

[keystone]
auth_url = "u"
application_credential_id = "old"
credential = "keystone-credential"

[[grant]]
user = "app"
secrets = ["*"]

# monitoring
[[grant]]
group = "monitoring"
secrets = ["METRICS_TOKEN"]
"""


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The directory below which all is written; systemd's programs are left out."""

    def run(command: list[str], *_: object) -> bytes:
        return b"AAAA" if command[0] == "systemd-creds" else b""

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(setup_machine, "run", run)
    monkeypatch.setattr(setup, "_credential", lambda *_, **__: b"secret")
    directory, draft = tmp_path / "etc" / "agent", tmp_path / "etc" / "draft"
    monkeypatch.setattr(setup_files, "DIRECTORY", directory)
    monkeypatch.setattr(setup_files, "DRAFT", draft)
    monkeypatch.setattr(setup, "DIRECTORY", directory)
    monkeypatch.setattr(setup, "DRAFT", draft)
    monkeypatch.setattr(setup_machine, "DROP_IN", tmp_path / "etc" / "drop-in" / "group.conf")
    return tmp_path / "etc"


def _run(*options: str) -> int:
    return setup.run(_parser(ARGUMENTS).parse_args([*ARGUMENTS, *options, "--no-start"]))


def test_nobody_else_may_write_what_it_writes(machine: Path) -> None:
    """Whatever the umask of the shell or the provisioning tool: systemd obeys these files."""
    former = os.umask(0)
    try:
        assert _run("--user=root") == 0
    finally:
        os.umask(former)
    written = [path for path in machine.rglob("*") if path.is_file()]
    assert len(written) == 3
    for path in (*written, *(path.parent for path in written)):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o022, path


def test_other_files_of_the_directory_stay(machine: Path) -> None:
    """With mode and owner; and nothing of the draft is left."""
    assert _run("--user=root") == 0
    other = machine / "agent" / "mine" / "ca.pem"
    other.parent.mkdir(mode=0o750)
    other.write_text("mine")
    other.chmod(0o640)
    if not os.getuid():
        os.chown(other, 1234, 1234)
    before = other.stat()
    assert _run("--user=root", "--replace") == 0
    after = other.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert other.read_text() == "mine"
    assert not (machine / "draft").exists()


@pytest.mark.parametrize("exchanges", [True, False])
def test_both_files_change_or_none(
    machine: Path, monkeypatch: pytest.MonkeyPatch, *, exchanges: bool
) -> None:
    """Also where the file system can't exchange directories; and a second exchange takes it back."""
    assert _run("--user=root") == 0
    directory = machine / "agent"
    if not exchanges:
        monkeypatch.setattr(setup_files, "_EXCHANGE", 1 << 20)  # EINVAL
    setup_files.begin()
    setup_files.write("agent.toml", b"new", 0o644)
    setup_files.write("keystone-credential.cred", b"new", 0o600)
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    setup_files.exchange()
    assert {path.read_bytes() for path in directory.iterdir()} == {b"new"}
    setup_files.exchange()
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before


def test_unit_instead_of_user_takes_the_users_socket_away(machine: Path) -> None:
    """The drop-in of the former user's group goes."""
    assert _run("--user=root") == 0
    assert (machine / "drop-in" / "group.conf").exists()
    assert _run("--unit=x.service", "--replace") == 0
    assert not (machine / "drop-in" / "group.conf").exists()
    content = tomllib.loads((machine / "agent" / "agent.toml").read_text())
    assert content["grant"] == [{"unit": "x.service", "secrets": ["*"]}]


def test_what_is_not_given_stays_comments_too() -> None:
    """A renewal changes one line."""
    new = changed(BY_HAND, Given(application_credential_id="new"))
    assert new == BY_HAND.replace('"old"', '"new"')
    assert changed(BY_HAND, Given()) == BY_HAND
    same = Given("v", "c", "u", "old", user="app")
    assert changed(BY_HAND, same) == BY_HAND


def test_another_application_is_the_first_grant_only() -> None:
    """Grants written by hand stay."""
    new = tomllib.loads(changed(BY_HAND, Given(unit="x.service", secrets=("A", "B"))))
    assert new["grant"] == [
        {"unit": "x.service", "secrets": ["A", "B"]},
        {"group": "monitoring", "secrets": ["METRICS_TOKEN"]},
    ]
    assert "# monitoring" in changed(BY_HAND, Given(user="other"))
    assert changed(BY_HAND, Given(user="other")) == BY_HAND.replace('user = "app"', 'user = "other"')


def test_another_way_to_log_in_is_replaced() -> None:
    """An application credential leaves no password account behind: two ways would be refused."""
    text = '[keystone]\nusername = "v"\nproject = "p"\ncredential_file = "/run/x"\n'
    new = tomllib.loads(changed(text, FIRST))
    assert new["keystone"] == {
        "auth_url": "u",
        "application_credential_id": "i",
        "credential": "keystone-credential",
    }


@pytest.mark.parametrize("text", ["vps_id = ", 'keystone = "x"', "grant = 3", "[[keystone]]"])
def test_a_file_that_cant_be_changed_is_refused(text: str) -> None:
    """Without a traceback."""
    with pytest.raises(UnchangeableError):
        changed(text, FIRST)


def _encrypted(kind: str, mask: int) -> bytes:
    header = bytes.fromhex(kind) + b"".join(n.to_bytes(4, "little") for n in (32, 1, 12, 16)) + bytes(12)
    return base64.encodebytes(header + bytes(-len(header) % 8) + mask.to_bytes(8, "little") + bytes(64))


def test_what_the_ciphertext_is_bound_to() -> None:
    """Its own header says it, not a device node."""
    host = ciphertext.bound_to(_encrypted("5a1c6a86df9d4096b1d5a65e0862f19a", 0))
    assert (host.words, host.pcrs) == ("its own key, /var/lib/systemd/credential.secret", ())
    both = ciphertext.bound_to(_encrypted("93a894094874449090caf2fc93cab553", 1 << 7 | 1 << 11))
    assert (both.words, both.pcrs) == ("its TPM2 and its own key", (7, 11))
    assert not ciphertext.bound_to(_encrypted("058469daf6f54324800549da0f8ea2fb", 0)).safe
    for strange in (b"", b"AAAA", b"\xff", _encrypted("00" * 16, 0)):
        assert "not known here" in ciphertext.bound_to(strange).words


def test_another_application_gets_a_grant_and_nothing_else_changes() -> None:
    """Behind what was written, comments too; one that is there already is refused."""
    text = added(BY_HAND, Given(user="billing", secrets=("DATABASE_URL", "SMTP_*")))
    assert text.startswith(BY_HAND.rstrip())
    first, *_, last = tomllib.loads(text)["grant"]
    assert first == {"user": "app", "secrets": ["*"]}
    assert last == {"user": "billing", "secrets": ["DATABASE_URL", "SMTP_*"]}
    with pytest.raises(UnchangeableError, match="user billing has a grant already"):
        added(text, Given(user="billing", secrets=("OTHER",)))


@pytest.mark.parametrize("given", [["--user", "billing"], ["--secrets", "A"], ["--unit", "b.service"]])
def test_another_application_is_named_with_its_secrets(
    given: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Who and which: nobody reads all of another application's secrets because a word was forgotten."""
    (tmp_path / "agent.toml").write_text(BY_HAND)
    monkeypatch.setattr(setup, "DIRECTORY", tmp_path)
    assert setup.run(_parser(["setup"]).parse_args(["setup", "--add", *given])) == 2
    assert "--add needs" in capsys.readouterr().err
    assert (tmp_path / "agent.toml").read_text() == BY_HAND
