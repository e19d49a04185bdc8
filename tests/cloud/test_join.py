"""``vps-secrets join`` on the real cloud of both releases: killed after every step, and thieves.

What a thief of the user data gets at each moment is written at each test.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import signal
import subprocess
import sys
import threading
import time
import tomllib
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from agent.identity import credential_file, held
from agent.identity.account import Account, Refusal, Token
from agent.identity.calls import Line
from agent.identity.consumers import Consumers
from agent.identity.errors import IdentityError
from common import sealing, sealing_key
from lab.testbed.running import UnixConnection

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

    from lab.testbed.tenant import Registrar, Tenant

ROOT = Path(__file__).parents[2]
DEADLINE_S = 180.0
LOOKS_EVERY_S = 0.3
TRIES = 5
THIEF = "a thief's own password, of many characters"
FOREIGN_KEY = sealing_key.announcement_of(b"t" * sealing_key.KEY_BYTES)
CHANGED = 3
"""The step with which the one-time password is worthless."""
STEPS = 20
"""Of a run that waits for nothing: ten calls of Keystone and more."""


def by_day_and_night(steps: Iterable[int], by_day: Container[int]) -> list[Any]:
    """Return all steps as parameters, those that are not for each day marked."""
    return [step if step in by_day else pytest.param(step, marks=pytest.mark.nightly) for step in steps]


def asked(registrar: Registrar, target: str, method: str = "POST") -> dict[str, Any]:
    """Ask the registrar for something that it does; again when the cloud fails, as the worker does."""
    for _ in range(TRIES):
        status, content = answered(registrar, target, method)
        if status != HTTPStatus.BAD_GATEWAY:
            break
    assert status == HTTPStatus.OK, content
    return content


def answered(registrar: Registrar, target: str, method: str = "POST") -> tuple[int, dict[str, Any]]:
    """Ask the registrar; return status and content."""
    connection = UnixConnection(registrar.socket, DEADLINE_S)
    with contextlib.closing(connection):
        connection.request(method, target)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


@dataclass
class Machine:
    """A new VPS with its claim in a file; ``directory`` is all that it has."""

    tenant: Tenant
    registrar: Registrar
    directory: Path
    vps_id: str
    claim: dict[str, str] = field(repr=False)
    container: str
    """Its URL."""

    @property
    def file(self) -> Path:
        """Where cloud-init has put the claim."""
        return self.directory / "claim.json"

    def join(self, *options: str, die_after: int = 0, looks: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the command while the deployer looks, with the claim in the file, if that is there."""
        command = [sys.executable, "-m", "lab.testbed.joining", str(self.directory), str(die_after)]
        given = [*(["--claim", str(self.file)] if self.file.exists() else []), "--no-start", *options]
        ended = threading.Event()
        looking = threading.Thread(target=self._look, args=(ended,))
        if looks:
            looking.start()
        try:
            return subprocess.run(
                [*command, *given], cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_S, check=False
            )
        finally:
            ended.set()
            if looks:
                looking.join()

    def _look(self, ended: threading.Event) -> None:
        """Look as the deployer's worker does: after a failure of the cloud it looks again."""
        while not ended.wait(LOOKS_EVERY_S):
            answered(self.registrar, f"/vps/{self.vps_id}/observe")

    @property
    def account(self) -> Account:
        """Its user."""
        return Account(Line(), self.tenant.cloud.auth_url, self.claim["userId"])

    def check_that_it_has_joined(self) -> None:
        """Its own password, credential and key are in force, and nothing else of this user is."""
        etc, account = self.directory / "etc", self.account
        mine = held.read(etc)
        assert mine is not None
        assert mine.password is not None
        assert mine.next is None
        assert account.log_in(self.claim["oneTimePassword"]) is Refusal.WRONG
        token = account.log_in(mine.password, self.tenant.runtime_id)
        assert isinstance(token, Token)
        configuration = tomllib.loads((etc / "agent.toml").read_text())
        (credential,) = account.credentials(token)
        assert configuration["keystone"]["application_credential_id"] == credential.id
        assert {one.kind for one in account.belongings(token)} == {"application_credentials", "access_rules"}
        secret = credential_file.read(credential_file.KEYSTONE_CREDENTIAL, etc)
        assert secret is not None
        of_its_own = account.log_in_with(credential.id, secret.decode())
        private = credential_file.read(sealing_key.CREDENTIAL, etc)
        assert private is not None
        mine_is = sealing_key.parse(private.decode().strip())
        assert mine_is is not None
        announced = replace(mine_is, key=sealing.public_of(mine_is.key))
        (consumer,) = Consumers(Line(), self.container).listed(of_its_own)
        assert {"name": consumer.name, "URL": consumer.url} == announced.consumer
        assert configuration["fetch"]["acknowledge"] is True
        assert {path.name for path in self.directory.iterdir()} <= {"etc", "state", "agent", "drop-in"}
        assert list((self.directory / "state").iterdir()) == []


@pytest.fixture
def machine(tenant: Tenant, registrar: Registrar, tmp_path: Path) -> Machine:
    """A new VPS that the deployer has made, and whose claim was handed out."""
    return new_machine(tenant, registrar, tmp_path)


def new_machine(tenant: Tenant, registrar: Registrar, directory: Path) -> Machine:
    """Make a VPS, its container, and its claim as the deployer's API answers it."""
    vps_id = f"vps-{secrets.token_hex(4)}"
    asked(registrar, f"/vps/{vps_id}")
    told = asked(registrar, f"/vps/{vps_id}/claim")
    return handed_out(tenant, registrar, directory, vps_id, told)


def handed_out(
    tenant: Tenant, registrar: Registrar, directory: Path, vps_id: str, told: dict[str, str]
) -> Machine:
    """Put the claim of a user into a machine's file."""
    container = tenant.cloud.deployment.create_vps(vps_id, told["userId"]).container_ref
    claim = {
        "operation": "0",
        "vps": vps_id,
        "container": container.rpartition("/")[2],
        "authUrl": tenant.cloud.auth_url,
        "user": "root",
        **told,
    }
    machine = Machine(tenant, registrar, directory, vps_id, claim, container)
    machine.file.touch(0o600)
    machine.file.write_text(json.dumps(claim))
    return machine


def test_a_new_machine_joins(machine: Machine) -> None:
    """In one run; what it says is no secret, and the one-time password is nowhere below its directory."""
    done = machine.join()
    assert done.returncode == 0, done.stderr
    assert int(done.stderr.splitlines()[-1]) >= STEPS
    machine.check_that_it_has_joined()
    assert "the one-time password is worthless" in done.stdout
    mine = held.read(machine.directory / "etc")
    assert mine is not None
    hidden = [machine.claim["oneTimePassword"], mine.password or ""]
    written = [path.read_bytes() for path in machine.directory.rglob("*") if path.is_file()]
    said = [done.stdout.encode(), done.stderr.encode(), machine.registrar.log.read_bytes()]
    assert not any(one.encode() in text for one in hidden for text in (*written, *said))
    again = machine.join(looks=False)
    assert (again.returncode, "has joined before" in again.stdout) == (0, True)


@pytest.mark.parametrize("step", by_day_and_night(range(1, STEPS + 1), range(2, STEPS + 1, 3)))
def test_killed_after_each_step_it_goes_on(machine: Machine, step: int) -> None:
    """A power cut after each call to the cloud and each file: the next run ends well, whatever was done."""
    killed = machine.join(die_after=step)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    done = machine.join()
    assert done.returncode == 0, (killed.stdout, done.stdout, done.stderr)
    machine.check_that_it_has_joined()


@pytest.fixture
def of_a_pool(tenant: Tenant, registrar: Registrar, tmp_path: Path) -> Machine:
    """A new VPS whose user a person made in a panel: not locked, with its role from the beginning."""
    vps_id, password = f"vps-{secrets.token_hex(4)}", secrets.token_urlsafe(32)
    user = tenant.identity.make("users", vps_id, domain_id=tenant.domain_id, password=password)
    reader = tenant.identity.find("roles", "reader")
    assert reader is not None
    tenant.identity.grant(reader.id, user.id, "project", tenant.runtime_id)
    time.sleep(1.1)  # Keystone revokes every token of the second in which a password is set
    told = {"userId": user.id, "oneTimePassword": password}
    return handed_out(tenant, registrar, tmp_path, vps_id, told)


def test_a_thief_who_was_faster(machine: Machine) -> None:
    """Before the claim: he has the user; the VPS says so and ends with 1, and nothing of it is set up.

    He gets what this VPS would have got: the role, once the registrar has seen "the claim", and with it the
    container. Without a second way (os-server-password, the console) nobody can tell him from the VPS there,
    so what ends it is the VPS's alarm: its user is deleted, and he has nothing that logs in.
    """
    thief = machine.account
    assert thief.change_password(machine.claim["oneTimePassword"], THIEF)
    failed = machine.join()
    assert failed.returncode == 1
    assert "somebody used it before this machine" in failed.stderr
    assert not (machine.directory / "etc" / "agent.toml").exists()
    assert asked(machine.registrar, f"/vps/{machine.vps_id}/observe")["claimed"] is True
    token = thief.log_in(THIEF, machine.tenant.runtime_id)
    assert isinstance(token, Token)
    made = thief.make_credential(token, "vps-secrets-1", 1e6)
    Consumers(Line(), machine.container).add(token, FOREIGN_KEY)
    again = machine.join()
    assert (again.returncode, again.stderr.splitlines()[0]) == (1, failed.stderr.splitlines()[0])
    asked(machine.registrar, f"/vps/{machine.vps_id}", "DELETE")
    assert thief.log_in(THIEF) is Refusal.WRONG
    for use in (
        lambda: thief.log_in_with(made.credential.id, made.secret),
        lambda: Consumers(Line(), machine.container).listed(token),
    ):
        with pytest.raises(IdentityError, match="HTTP 40"):
            use()


@pytest.mark.parametrize("step", by_day_and_night((1, 2, 4, 8, 12, 16), (1, 4, 12)))
def test_a_thief_between_the_steps(machine: Machine, step: int) -> None:
    """He has a password that is dead from the third step on; before it he comes before the claim."""
    machine.join(die_after=step)
    one_time = machine.claim["oneTimePassword"]
    assert machine.account.log_in(one_time) is (Refusal.LOCKED if step < CHANGED else Refusal.WRONG)
    if step >= CHANGED:
        assert not machine.account.change_password(one_time, THIEF)
    done = machine.join()
    assert done.returncode == 0, done.stderr
    machine.check_that_it_has_joined()
    assert not machine.account.change_password(one_time, THIEF)


def test_what_a_thief_made_of_a_pool_s_user_is_deleted(of_a_pool: Machine) -> None:
    """Before the claim he logs in: all that he makes is found and deleted, his tokens end, his key is out."""
    thief = of_a_pool.account
    token = thief.log_in(of_a_pool.claim["oneTimePassword"], of_a_pool.tenant.runtime_id)
    assert isinstance(token, Token)
    made = thief.make_credential(token, "vps-secrets-3", 1e6)
    url, user_id = of_a_pool.tenant.cloud.auth_url, thief.user_id
    bodies: list[tuple[str, dict[str, Any]]] = [
        (f"/users/{user_id}/application_credentials", {"application_credential": {"name": "back door"}}),
        ("/credentials", {"credential": {"type": "totp", "blob": "A" * 32, "user_id": user_id}}),
        (f"/users/{user_id}/credentials/OS-EC2", {"tenant_id": of_a_pool.tenant.runtime_id}),
    ]
    for path, body in bodies:
        Line().call("POST", url + path, "be a thief", (201, 403), json=body, token=token.value)
    Consumers(Line(), of_a_pool.container).add(token, FOREIGN_KEY)
    done = of_a_pool.join(looks=False)
    assert done.returncode == 0, done.stderr
    of_a_pool.check_that_it_has_joined()
    assert "deleted        application credential" in done.stdout
    assert "(back door): this machine does not hold it" in done.stdout
    assert "deleted        a sealing key that is not this machine's" in done.stdout
    for use in (lambda: thief.log_in_with(made.credential.id, made.secret), lambda: thief.credentials(token)):
        with pytest.raises(IdentityError, match="HTTP 40"):
            use()


def test_a_thief_who_was_faster_with_a_pool_s_user(of_a_pool: Machine) -> None:
    """As with a locked one; but only a person can disable or delete it: until then its ACLs name nobody."""
    assert of_a_pool.account.change_password(of_a_pool.claim["oneTimePassword"], THIEF)
    failed = of_a_pool.join(looks=False)
    assert (failed.returncode, "somebody used it before" in failed.stderr) == (1, True)


def test_it_waits_for_the_deployer(machine: Machine) -> None:
    """Which is away: it says so, ends with 75, and the next run goes on where it was."""
    waited = machine.join("--timeout", "4", looks=False)
    assert waited.returncode == 75
    assert "the deployer has not let this VPS in yet" in waited.stdout
    assert "Run it again: it goes on where it was" in waited.stderr
    done = machine.join()
    assert done.returncode == 0, done.stderr
    machine.check_that_it_has_joined()


def test_it_waits_for_keystone(machine: Machine) -> None:
    """Which is away, or speaks no TLS: told by its step; the claim stays for the next run."""
    machine.file.write_text(json.dumps(machine.claim | {"authUrl": "http://localhost:1/v3"}))
    waited = machine.join("--timeout", "3", looks=False)
    assert waited.returncode == 75
    assert "change the password: the connection failed (ECONNREFUSED)" in waited.stdout
    https = machine.tenant.cloud.auth_url.replace("http:", "https:")
    machine.file.write_text(json.dumps(machine.claim | {"authUrl": https}))
    waited = machine.join("--timeout", "3", looks=False)
    assert (waited.returncode, "the TLS handshake failed" in waited.stdout) == (75, True)
    machine.file.write_text(json.dumps(machine.claim))
    assert machine.join().returncode == 0
    machine.check_that_it_has_joined()


def test_a_user_that_was_shut_out_while_it_waits(machine: Machine) -> None:
    """It can't go on, and says so."""
    asked(machine.registrar, f"/vps/{machine.vps_id}/disable")
    failed = machine.join("--timeout", "60", looks=False)
    assert failed.returncode == 1
    assert "or the user was disabled" in failed.stderr
