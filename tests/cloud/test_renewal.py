"""``vps-secrets-renew`` on the real cloud of both releases: three generations, killed after every step."""

from __future__ import annotations

import http.server
import json
import secrets
import socketserver
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Self

import pytest

from agent.core import renewal
from agent.core.renewal import DAY_S, Pair
from agent.identity import credential_file, held
from agent.identity.account import RULES, Account, Refusal, Token
from agent.identity.calls import Line
from agent.identity.errors import CredentialFileError, IdentityError
from agent.identity.held import Held
from lab.testbed.join import join
from lab.testbed.running import ROOT
from tests.cloud.test_registrar import asked, claimed, until_unlocked

if TYPE_CHECKING:
    from pathlib import Path

    from lab.testbed.tenant import Registrar, Tenant


DEADLINE_S = 180.0
MOST_STEPS = 60
CHECKED = "3\n"
"""Steps of a run that is quiet, once a day: it logs in, ends the token, and writes that down."""
EXPECTED = {"application_credentials", "access_rules"}


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


class Reader:
    """Reads the container all the time by the credential in force, and once more for each ``refresh``.

    As the agent: each reading takes the credential at its beginning, and a refresh is a reading that begins
    after it was asked for. A context manager.
    """

    def __init__(self, account: Account, container: str, directory: Path, first: str) -> None:
        self._account, self._container, self._directory, self._first = account, container, directory, first
        self._one_at_a_time = threading.Lock()
        self._ended = threading.Event()
        self.failures: list[str] = []
        self.readings = 0
        self.away = False
        reader = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def address_string(self) -> str:
                return "unix"

            def log_message(self, *_: object) -> None:
                return

            def do_POST(self) -> None:  # http.server's name
                good = not reader.away and reader.read()
                body = json.dumps({} if good else {"detail": "Barbican does not answer"}).encode()
                self.send_response(200 if good else 502)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self._server = _Server(str(directory / "control.sock"), Handler)
        self._threads = [
            threading.Thread(target=self._server.serve_forever, args=(0.05,)),
            threading.Thread(target=self._run),
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._server.shutdown()
        for thread in self._threads:
            thread.join()
        self._server.server_close()

    def _run(self) -> None:
        while not self._ended.wait(0.05):
            self.read()

    def read(self) -> bool:
        """Read once; note what went wrong."""
        with self._one_at_a_time:
            self.readings += 1
            try:
                content = (
                    credential_file.read(credential_file.KEYSTONE_CREDENTIAL, self._directory) or b""
                ).decode()
                pair = renewal.pair(content) or Pair(self._first, content)
                token = self._account.log_in_with(pair.id, pair.secret)
                Line().call("GET", self._container, "read the container", (200,), token=token.value)
            except (CredentialFileError, IdentityError) as error:
                self.failures.append(str(error))
                return False
            return True


@dataclass
class Vps:
    """A VPS that has joined, with its credentials below ``directory``."""

    tenant: Tenant
    registrar: Registrar
    vps_id: str
    directory: Path
    user_id: str
    first: str
    """The id of its first credential."""
    container: str
    one_time: str = field(repr=False)

    @property
    def account(self) -> Account:
        """Its user."""
        return Account(Line(), self.tenant.cloud.auth_url, self.user_id)

    def token(self) -> Token:
        """Log in by its password, with a role."""
        mine = held.read(self.directory)
        assert mine is not None
        found = self.account.log_in(mine.password or "", self.tenant.runtime_id)
        assert isinstance(found, Token)
        return found

    def names(self) -> list[str]:
        """Return the names of its application credentials."""
        return sorted(one.name for one in self.account.credentials(self.token()))

    def renew(self, ahead_days: float, die_after: int = 0) -> subprocess.CompletedProcess[str]:
        """Run the program, so many days later."""
        return subprocess.run(
            [
                sys.executable,
                "-m",
                "lab.testbed.renewing",
                self.directory,
                str(die_after),
                str(ahead_days * DAY_S),
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )

    def record(self) -> renewal.Record:
        """Return what it says about itself."""
        return renewal.parse((self.directory / renewal.RECORD).read_bytes())

    def has_a_password_of(self, days: float) -> None:
        """Have the record say that the password is so young."""
        record = replace(self.record(), password_since=time.time() + days * DAY_S)
        (self.directory / renewal.RECORD).write_bytes(renewal.encode(record))

    def reader(self) -> Reader:
        """Return somebody who reads."""
        return Reader(self.account, self.container, self.directory, self.first)

    def check(self, generation: int) -> None:
        """Make sure that one credential is left, which is in force, and nothing that is not needed."""
        token = self.token()
        (credential,) = self.account.credentials(token)
        assert credential.name == f"vps-secrets-{generation}"
        content = credential_file.read(credential_file.KEYSTONE_CREDENTIAL, self.directory)
        pair = renewal.pair((content or b"").decode())
        assert pair is not None
        assert pair.id == credential.id
        belongings = self.account.belongings(token)
        assert {one.kind for one in belongings} == EXPECTED
        assert len([one for one in belongings if one.kind == "access_rules"]) == len(RULES)
        assert not [path for path in self.directory.iterdir() if path.name.endswith(".draft")]


@pytest.fixture
def vps(tenant: Tenant, registrar: Registrar, tmp_path: Path) -> Vps:
    """A VPS that has joined."""
    vps_id = f"vps-{secrets.token_hex(4)}"
    told = claimed(registrar, vps_id)
    joined = join(
        tenant.cloud.auth_url,
        told["userId"],
        told["oneTimePassword"],
        tenant.runtime_id,
        lambda: until_unlocked(registrar, vps_id),
        rules=RULES,
    )
    container = tenant.cloud.deployment.create_vps(vps_id, joined.user_id).container_ref
    held.write(Held(joined.user_id, joined.password), tmp_path)
    credential_file.write(credential_file.KEYSTONE_CREDENTIAL, joined.credential.secret.encode(), tmp_path)
    (tmp_path / "agent.toml").write_text(
        f'vps_id = "{vps_id}"\ncontainer = "{container}"\n'
        f'[keystone]\nauth_url = "{tenant.cloud.auth_url}"\n'
        f'application_credential_id = "{joined.credential.id}"\n'
        f'[control]\nsocket = "{tmp_path}/control.sock"\n'
    )
    return Vps(
        tenant,
        registrar,
        vps_id,
        tmp_path,
        joined.user_id,
        joined.credential.id,
        container,
        told["oneTimePassword"],
    )


def test_three_generations_under_a_reader(vps: Vps) -> None:
    """Each when a third of the former's life is left; before that nobody is asked; nothing fails to read."""
    with vps.reader() as reader:
        assert vps.renew(0).returncode == 0  # it learns when its credential ends
        quiet = vps.renew(59)
        assert (quiet.returncode, quiet.stderr) == (0, CHECKED)
        again = vps.renew(59.9)
        assert (again.returncode, again.stderr) == (0, "0\n"), "once a day"
        for generation, ahead in enumerate((61, 122, 183), 2):
            done = vps.renew(ahead)
            assert done.returncode == 0, done.stderr
            vps.check(generation)
            record = vps.record()
            assert (record.problem, record.pending, record.foreign) == ("", False, ())
            assert record.next is not None
            assert not renewal.is_due(record.expires, time.time() + (ahead + 59) * DAY_S)
            quiet = vps.renew(ahead + 59)
            assert (quiet.returncode, quiet.stderr) == (0, CHECKED)
        assert reader.readings > 10
    assert reader.failures == []


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("days", "every"),
    [
        pytest.param(61, 3, id="credential"),
        pytest.param(61, 1, id="credential-every", marks=pytest.mark.nightly),
        pytest.param(366, 1, id="and-password", marks=pytest.mark.nightly),
    ],
)
def test_killed_after_each_step(vps: Vps, days: int, every: int) -> None:
    """Whatever was killed, the next run leaves one credential, and what reads goes on reading.

    Only in the second of a change of the password a new login can be in vain, which Keystone revokes, too:
    once a year a reading may be late then.
    """
    ahead, total = 0.0, 0
    with vps.reader() as reader:
        assert vps.renew(0).returncode == 0
        for die_after in range(1, MOST_STEPS, every):
            ahead += days
            if days < renewal.PASSWORD_S / DAY_S:
                vps.has_a_password_of(ahead)
            killed = vps.renew(ahead, die_after)
            if killed.returncode == 0:
                break
            assert killed.returncode == -9, killed.stderr
            total += 1
            done = vps.renew(ahead)
            assert done.returncode == 0, (die_after, done.stderr)
            assert len(vps.names()) == 1, die_after
            record = vps.record()
            assert (record.problem, record.foreign) == ("", ()), die_after
        assert reader.read()
    assert total >= 12 // every
    assert days > renewal.PASSWORD_S / DAY_S or reader.failures == []
    assert not [one for one in reader.failures if "HTTP 401" not in one]
    mine = held.read(vps.directory)
    assert mine is not None
    assert mine.next is None


def test_off_for_a_year(vps: Vps) -> None:
    """Its credential has expired; its password has not. The same where the credential's file is lost."""
    assert vps.renew(0).returncode == 1  # nobody reads here; what it learned is kept
    with vps.reader():
        done = vps.renew(400)
        assert done.returncode == 0, done.stderr
        vps.check(2)
        assert "the account has a new password" in done.stderr
        credential_file.path_of(credential_file.KEYSTONE_CREDENTIAL, vps.directory).unlink()
        done = vps.renew(401)
        assert done.returncode == 0, done.stderr
        vps.check(3)
        credential_file.path_of(credential_file.KEYSTONE_CREDENTIAL, vps.directory).write_bytes(b"damaged")
        done = vps.renew(402)
        assert done.returncode == 0, done.stderr
        vps.check(4)


def test_the_former_one_stays_until_the_agent_has_read(vps: Vps) -> None:
    """Barbican is away: the next one is in force and the former works still; the next run ends it."""
    with vps.reader() as reader:
        reader.away = True
        failed = vps.renew(61)
        assert failed.returncode == 1
        assert "Barbican does not answer; the former one stays" in failed.stderr
        assert vps.names() == ["vps-secrets-1", "vps-secrets-2"]
        assert "could not be renewed" in renewal.warning(vps.record(), time.time())
        reader.away = False
        assert vps.renew(61).returncode == 0
        vps.check(2)
        assert vps.record().problem == ""


def test_what_somebody_else_made_is_deleted_and_told(vps: Vps) -> None:
    """With the password of a thief, say: by its own renewal the VPS notices."""
    token = vps.token()
    vps.account.make_credential(token, "a thief's", DAY_S)
    with vps.reader():
        done = vps.renew(61)
    assert done.returncode == 0, done.stderr
    assert "ALARM" in done.stderr
    vps.check(2)
    (foreign,) = vps.record().foreign
    assert "a thief's" in foreign
    assert "compromised" in renewal.warning(vps.record(), time.time())


def test_a_registrar_that_was_taken_over_is_noticed(vps: Vps, tenant: Tenant) -> None:
    """It resets the password and disables: this machine's is refused, and says so; nothing is lost."""
    with vps.reader():
        assert vps.renew(0).returncode == 0
        tenant.identity.change("users", vps.user_id, "reset", password=secrets.token_urlsafe(32))
        time.sleep(1.1)
        failed = vps.renew(1)  # the next day, long before its credential is renewed
    assert failed.returncode == 1
    assert "Keystone refuses this machine's password" in failed.stderr
    record = replace(vps.record(), tried=None)
    assert "somebody else has set another one" in renewal.warning(record, time.time())
    asked(vps.registrar, "POST", f"/vps/{vps.vps_id}/disable")
    assert vps.account.log_in("x" * 32) is Refusal.WRONG


def test_a_vps_that_was_set_up_by_hand(vps: Vps) -> None:
    """It has no password: nothing is done, and nothing said."""
    credential_file.path_of(credential_file.ACCOUNT_PASSWORD, vps.directory).unlink()
    done = vps.renew(400)
    assert (done.returncode, done.stderr) == (0, "0\n")


def test_nothing_of_it_holds_a_secret(vps: Vps) -> None:
    """Neither the record nor what it says; files that do are for this machine and for root."""
    with vps.reader():
        said = "".join(run.stderr + run.stdout for run in (vps.renew(0), vps.renew(61), vps.renew(500)))
    mine = held.read(vps.directory)
    content = credential_file.read(credential_file.KEYSTONE_CREDENTIAL, vps.directory)
    pair = renewal.pair((content or b"").decode())
    assert mine is not None
    assert pair is not None
    shown = said + (vps.directory / renewal.RECORD).read_text()
    for secret in (mine.password or "", pair.secret):
        assert not any(secret in text for text in (shown, repr(mine), repr(pair)))
    modes = {path.name: path.stat().st_mode & 0o777 for path in vps.directory.iterdir()}
    assert modes["keystone-credential.cred"] == modes["account-password.cred"] == 0o600
    assert modes[renewal.RECORD] == 0o644
