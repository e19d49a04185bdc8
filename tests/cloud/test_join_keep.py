"""A VPS that was set up by hand moves into the deployer's care, under an application that reads all the time.

The registrar takes its user over, ``vps-secrets join --keep`` is the command itself, the agent a process with
its sockets and what systemd keeps for it (tests/integration/unit.py).
"""

from __future__ import annotations

import contextlib
import http.client
import json
import secrets
import signal
import subprocess
import sys
import threading
import time
import tomllib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from agent.identity import credential_file, held
from agent.identity.account import Account, Refusal, Token
from agent.identity.calls import Line
from agent.identity.consumers import Consumers
from agent.identity.errors import IdentityError
from common import sealing_key
from deployer.cloud.accounts import RUNTIME_RULES
from lab.testbed import joining
from lab.testbed.repeating import Repeating
from lab.testbed.running import ROOT, ask
from tests.cloud.test_join import LOOKS_EVERY_S, asked
from tests.cloud.test_registrar import ask as ask_registrar
from tests.integration.unit import Unit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from deployer.cloud.secrets import Vps
    from lab.testbed.tenant import Registrar, Tenant

DEADLINE_S = 300.0
VALUES = {"JWT_SECRET": b"a jwt value", "DATABASE_URL": b"a url"}
MINE = """
# by hand: often
[rotation]
poll_interval = "7m"  # mine
fleet_size = 1

[[grant]]
user = "root"
secrets = ["JWT_SECRET"]

[[grant]]
user = "root"
secrets = ["DATABASE_URL"]
"""


class Application(Repeating):
    """Reads the bundle all the time; ``failures`` are to be none."""

    def __init__(self, path: Path) -> None:
        super().__init__(0.03)
        self._path = path
        self.readings = 0
        self.failures: list[str] = []

    def once(self) -> None:
        """Read."""
        self.readings += 1
        try:
            answer = ask(self._path, "GET", "/v1/bundle")
        except (OSError, http.client.HTTPException) as error:
            self.failures.append(type(error).__name__)
            return
        if answer.status != 200 or set(answer.json["secrets"]) != set(VALUES):
            self.failures.append(f"{answer.status} {answer.problem}")


class Keeping(Repeating):
    """Takes what systemd is to keep, at once, but while a process starts."""

    def __init__(self, unit: Unit) -> None:
        super().__init__(0.01)
        self._unit = unit
        self.starting = threading.Lock()

    def once(self) -> None:
        """Take it."""
        with self.starting:
            assert self._unit.kept is not None


@dataclass
class ByHand:
    """A VPS that a person set up: its user, credential, secrets and the agent that serves them."""

    tenant: Tenant
    registrar: Registrar | None
    """Asked by this test, or by a worker."""
    directory: Path
    vps: Vps
    user_id: str
    former: str
    """The id of the application credential that was made by hand."""
    unit: Unit
    keeping: Keeping
    credentials: Path
    one_time: str = field(default="", repr=False)

    @property
    def etc(self) -> Path:
        """Where its configuration is."""
        return self.directory / "etc"

    @property
    def account(self) -> Account:
        """Its user."""
        return Account(Line(), self.tenant.cloud.auth_url, self.user_id)

    def claim(self) -> None:
        """Have the deployer hand out the user that there is."""
        assert self.registrar is not None
        told = asked(self.registrar, f"/vps/{self.vps.vps_id}/claim?keep={self.user_id}")
        self.one_time = told["oneTimePassword"]
        claim = {
            "vps": self.vps.vps_id,
            "container": self.vps.container_ref.rpartition("/")[2],
            "authUrl": self.tenant.cloud.auth_url,
            "sealing": "off",
            **told,
        }
        file = self.directory / "claim.json"
        file.touch(0o600)
        file.write_text(json.dumps(claim))

    def join(self, *options: str, die_after: int = 0) -> subprocess.CompletedProcess[str]:
        """Run the command, with the claim if that is there, while the deployer looks and systemd restarts."""
        file = self.directory / "claim.json"
        given = [*(["--claim", str(file)] if file.exists() else []), *options]
        process = subprocess.Popen(
            [sys.executable, "-m", "lab.testbed.joining", str(self.directory), str(die_after), *given],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        end, looked = time.monotonic() + DEADLINE_S, 0.0
        while process.poll() is None:
            if time.monotonic() > end:
                process.kill()
            if self.registrar is not None and time.monotonic() - looked > LOOKS_EVERY_S:
                # a Keystone on SQLite that is busy answers 500, and is asked again
                ask_registrar(self.registrar, "POST", f"/vps/{self.vps.vps_id}/observe")
                looked = time.monotonic()
            if (self.directory / joining.ASKED).exists():
                self.restart()
            time.sleep(0.02)
        out, err = process.communicate()
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def follow(self) -> None:
        """Have the next fetch find what is in force, as it does where it is a unit."""
        joining.decrypt(self.etc, self.credentials)
        self.unit.write((self.etc / "agent.toml").read_text())

    def restart(self) -> None:
        """Do what systemd does: decrypted credentials, another process, the same sockets."""
        self.follow()
        self.unit.stop()
        with self.keeping.starting:
            self.unit.start()
        (self.directory / joining.ASKED).unlink(missing_ok=True)

    def reads(self) -> None:
        """Have the agent read until that goes well: not in the second in which a password is set."""
        self.unit.until(lambda: self.unit.ask_control("/v1/refresh", "POST").status == 200)

    def check_that_it_has_joined(self) -> None:
        """One credential, its own, with its password and key; what was set by hand is as it was."""
        mine = held.read(self.etc)
        assert mine is not None
        assert mine.next is None
        assert self.account.log_in(self.one_time) is Refusal.WRONG
        token = self.account.log_in(mine.password or "", self.tenant.runtime_id)
        assert isinstance(token, Token)
        (credential,) = self.account.credentials(token)
        assert credential.id != self.former
        configuration = tomllib.loads((self.etc / "agent.toml").read_text())
        assert configuration["keystone"]["application_credential_id"] == credential.id
        assert {key: configuration[key] for key in ("rotation", "grant")} == tomllib.loads(MINE)
        assert {"# by hand: often", "# mine"} <= {
            f"#{line.partition('#')[2]}" for line in (self.etc / "agent.toml").read_text().splitlines()
        }
        consumers = Consumers(Line(), self.vps.container_ref).listed(token)
        assert sum(one.name == sealing_key.CONSUMER for one in consumers) == 1
        self.reads()
        assert self.unit.status()["failure"] is None
        assert list((self.directory / "state").iterdir()) == []


@pytest.fixture
def by_hand(tenant: Tenant, registrar: Registrar, tmp_path: Path) -> Iterator[ByHand]:
    """One whose deployer is the registrar."""
    with set_up_by_hand(tenant, registrar, tmp_path) as made:
        yield made


@contextlib.contextmanager
def set_up_by_hand(tenant: Tenant, registrar: Registrar | None, tmp_path: Path) -> Iterator[ByHand]:
    """What docs/provisioning.md says, made by a person in the domain of the VPS users; its agent serves."""
    cloud, vps_id = tenant.cloud, f"vps-{secrets.token_hex(4)}"
    password = secrets.token_urlsafe(32)
    user = tenant.identity.make("users", vps_id, domain_id=tenant.domain_id, password=password)
    reader = tenant.identity.find("roles", "reader")
    assert reader is not None
    tenant.identity.grant(reader.id, user.id, "project", tenant.runtime_id)
    account = Account(Line(), cloud.auth_url, user.id)
    time.sleep(1.1)  # Keystone revokes every token of the second in which a password is set
    token = account.log_in(password, tenant.runtime_id)
    assert isinstance(token, Token)
    made = account.make_credential(token, f"{vps_id} by hand", 1e6, RUNTIME_RULES)
    vps = cloud.deployment.create_vps(vps_id, user.id)
    cloud.deployment.rotate(vps, VALUES)
    etc = tmp_path / "etc"
    etc.mkdir()
    credential_file.write(credential_file.KEYSTONE_CREDENTIAL, made.secret.encode(), etc)
    with joining.in_memory() as credentials:
        joining.decrypt(etc, credentials)
        environ = {"CREDENTIALS_DIRECTORY": str(credentials)}
        with Unit(lambda _: (etc / "agent.toml").read_text(), environ) as unit, Keeping(unit) as keeping:
            (etc / "agent.toml").write_text(
                f'vps_id = "{vps_id}"\ncontainer = "{vps.container_ref}"\n'
                f'[keystone]\nauth_url = "{cloud.auth_url}"\n'
                f'application_credential_id = "{made.credential.id}"\ncredential = "keystone-credential"\n'
                f'[app]\nsocket = "{unit.app}"\n[control]\nsocket = "{unit.control}"\n{MINE}'
            )
            (tmp_path / "control.sock").symlink_to(unit.control)
            (tmp_path / joining.SERVING).touch()
            unit.start().until_ready()
            of_cloud = (tenant, registrar, tmp_path, vps, user.id, made.credential.id)
            yield ByHand(*of_cloud, unit, keeping, credentials)


def test_it_moves_under_a_reader(by_hand: ByHand, registrar: Registrar) -> None:
    """From the deployer's claim to the end of the former credential; nothing that it says is a secret."""
    with Application(by_hand.unit.app) as application:
        by_hand.claim()
        by_hand.reads()  # what was made by hand logs in while the password is locked
        assert by_hand.account.log_in(by_hand.one_time) is Refusal.LOCKED
        refused = by_hand.join()
        assert (refused.returncode, "give --keep" in refused.stderr) == (1, True)
        done = by_hand.join("--keep")
        assert done.returncode == 0, done.stderr
        by_hand.check_that_it_has_joined()
    assert application.readings > 20
    assert application.failures == []
    assert "trial reading  with the new credential: 2 secrets" in done.stdout
    assert "by hand): the agent reads with another one now" in done.stdout
    said = done.stdout + done.stderr + registrar.log.read_text() + by_hand.unit.log
    mine = held.read(by_hand.etc)
    assert mine is not None
    assert not any(secret in said for secret in (by_hand.one_time, mine.password or "?"))
    again = by_hand.join("--keep")
    assert (again.returncode, "has joined before" in again.stdout) == (0, True)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_killed_after_each_step(by_hand: ByHand) -> None:
    """The agent reads on, by the former credential or the new one; the next run, without --keep, ends it.

    The user and what is in Barbican stay the same: each time it is set up by hand anew.
    """
    steps, first = 0, (by_hand.etc / "agent.toml").read_text().replace(by_hand.former, "ID")
    with Application(by_hand.unit.app) as application:
        for die_after in range(1, 60):
            by_hand.claim()
            killed = by_hand.join("--keep", die_after=die_after)
            if killed.returncode == 0:
                break
            assert killed.returncode == -signal.SIGKILL, killed.stderr
            steps += 1
            by_hand.follow()
            by_hand.reads()
            done = by_hand.join()
            if (
                "give --keep" in done.stderr
            ):  # killed before the file was wiped, which this run was given again
                assert die_after == 1
                done = by_hand.join("--keep")
            assert done.returncode == 0, (die_after, killed.stdout, done.stdout, done.stderr)
            by_hand.check_that_it_has_joined()
            set_up_anew(by_hand, first)
    assert steps >= 25
    assert application.failures == []


def set_up_anew(by_hand: ByHand, configuration: str) -> None:
    """Have it as a person would leave it: a credential of hers, no password, no key, another start."""
    mine = held.read(by_hand.etc)
    assert mine is not None
    token = by_hand.account.log_in(mine.password or "", by_hand.tenant.runtime_id)
    assert isinstance(token, Token)
    made = by_hand.account.make_credential(token, f"by hand {secrets.token_hex(4)}", 1e6, RUNTIME_RULES)
    for one in by_hand.account.credentials(token):
        if one.id != made.credential.id:
            by_hand.account.delete_credential(token, one.id)
    credential_file.write(credential_file.KEYSTONE_CREDENTIAL, made.secret.encode(), by_hand.etc)
    (by_hand.etc / "agent.toml").write_text(configuration.replace("ID", made.credential.id))
    for name in (credential_file.ACCOUNT_PASSWORD, credential_file.SEALING_KEY):
        credential_file.path_of(name, by_hand.etc).unlink()
    by_hand.former = made.credential.id
    by_hand.tenant.identity.change("users", by_hand.user_id, "forget who made it", description="")
    by_hand.restart()


def test_only_the_user_of_that_name_is_kept(by_hand: ByHand, registrar: Registrar) -> None:
    """Another id, one that was claimed, one that is disabled: refused, and what reads goes on reading."""
    target = f"/vps/{by_hand.vps.vps_id}/claim?keep="
    status, problem = ask_registrar(registrar, "POST", target + "0" * 32)
    assert (status, problem["type"]) == (409, "urn:vps-secrets:problem:another-user")
    by_hand.claim()
    first = by_hand.one_time
    by_hand.claim()  # a file that was lost: another password, and the first is over
    assert by_hand.account.log_in(first) is Refusal.WRONG
    assert by_hand.join("--keep").returncode == 0
    status, problem = ask_registrar(registrar, "POST", target + by_hand.user_id)
    assert (status, problem["type"]) == (409, "urn:vps-secrets:problem:already-claimed")
    asked(registrar, f"/vps/{by_hand.vps.vps_id}/disable")
    status, problem = ask_registrar(registrar, "POST", target + by_hand.user_id)
    assert (status, problem["type"]) == (409, "urn:vps-secrets:problem:disabled")


def test_a_thief_of_the_claim(by_hand: ByHand, registrar: Registrar) -> None:
    """He changes the password before the machine: it can't join, says so, and reads on with what it has."""
    by_hand.claim()
    assert by_hand.account.change_password(by_hand.one_time, "a thief's own password, of many characters")
    failed = by_hand.join("--keep")
    assert failed.returncode == 1
    assert "somebody used it before this machine" in failed.stderr
    by_hand.reads()
    asked(registrar, f"/vps/{by_hand.vps.vps_id}/disable")
    with pytest.raises(IdentityError, match="HTTP 401"):
        by_hand.account.log_in_with(by_hand.former, "whatever")
