"""A VPS renews its own credential: the package's units, with the clocks moved, under a reader."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from agent.core.renewal import DAY_S
from agent.identity.account import RULES, Account, Token
from agent.identity.calls import Line
from deployer.cloud.accounts import User
from lab.testbed import tenant as sites
from lab.testbed.cloud import Account as Runtime
from lab.testbed.join import join
from lab.testbed.tenant import Registrar
from tests.cloud.test_registrar import claimed, until_unlocked
from tests.system.installed import APP, USER, VALUES, booted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lab.testbed.cloud import Cloud
    from lab.testbed.tenant import Tenant
    from tests.system.installed import Installed

UNIT = "vps-secrets-renew.service"
PROGRAM = "/usr/local/lib/renewing.py"
PASSWORD = "/etc/vps-secrets-agent/account-password.cred"
MOVED = """import os, sys, time
sys.path += ["/usr/lib/vps-secrets-agent", "/usr/lib/python3/dist-packages"]
from dataclasses import replace
from agent.identity.account import Account, Token
from agent.renew import __main__ as program
ahead, log_in, wall = float(os.environ["AHEAD"]), Account.log_in, time.time
def later(self, password, project_id=None):
    found = log_in(self, password, project_id)
    return replace(found, issued_at=found.issued_at + ahead) if isinstance(found, Token) else found
Account.log_in, time.time = later, lambda: wall() + ahead
sys.exit(program.main([]))
"""
"""The program, with its own clock and Keystone's so many seconds ahead."""
READER = """for _ in $(seq 100000); do
  [ -e /run/stop ] && exit
  {app} --fail http://x/v1/secrets/JWT_SECRET | sha256sum >>/run/read || echo failed >>/run/read
  echo . >>/run/reads
done"""


@dataclass
class Joined:
    """A machine whose VPS has joined."""

    machine: Installed
    tenant: Tenant
    user_id: str
    password: str = field(repr=False)

    def names(self) -> list[str]:
        """Return the names of its application credentials."""
        account = Account(Line(), self.tenant.cloud.auth_url, self.user_id)
        token = account.log_in(self.password, self.tenant.runtime_id)
        assert isinstance(token, Token)
        return [one.name for one in account.credentials(token)]

    def renew(self, days: float) -> None:
        """Have the unit run, so many days later."""
        program = f"ExecStart=\nExecStart=/usr/bin/python3 -IS {PROGRAM}\n"
        dropped = f"[Service]\n{program}Environment=AHEAD={days * DAY_S}\n"
        self.machine.write(f"/etc/systemd/system/{UNIT}.d/moved.conf", dropped)
        self.until_idle()
        self.machine.run(f"systemctl daemon-reload; systemctl start {UNIT}", timeout=300)

    def until_idle(self) -> None:
        """Wait for the run that the timer has begun: a start would join it."""
        self.machine.until(lambda: self.machine.show(UNIT, "ActiveState") == "inactive", 180)


@pytest.fixture
def joined(rootfs: Path, deb: Path, cloud: Cloud, tmp_path: Path) -> Iterator[Joined]:
    """Its credential as setup wrote it, and the account's password as join does."""
    tenant = sites.make(cloud)
    with booted(rootfs, deb) as machine, Registrar(tenant.configuration(tmp_path)) as registrar:
        told = claimed(registrar, machine.name)
        found = join(
            cloud.auth_url,
            told["userId"],
            told["oneTimePassword"],
            tenant.runtime_id,
            lambda: until_unlocked(registrar, machine.name),
            rules=RULES,
        )
        machine.cloud = cloud
        machine.vps = cloud.deployment.create_vps(machine.name, found.user_id)
        cloud.deployment.rotate(machine.vps, VALUES)
        user = User(machine.name, found.user_id, tenant.runtime_id, found.password)
        cloud.runtime[machine.name] = Runtime(user, found.credential)
        machine.setup()
        machine.write(PROGRAM, MOVED)
        held = {"userId": found.user_id, "password": found.password, "next": None}
        machine.run(f"systemd-creds encrypt --name=account-password - {PASSWORD}", given=json.dumps(held))
        yield Joined(machine, tenant, found.user_id, found.password)


@pytest.mark.timeout(900)
def test_three_generations_without_a_failed_read(joined: Joined) -> None:
    """By the timer first; then 61, 122 and 183 days later; nobody types anything on the VPS."""
    machine = joined.machine
    machine.run("systemctl start vps-secrets-renew.timer")
    machine.until(lambda: "renewal" in machine.status() and bool(machine.status()["renewal"]), 180)
    assert machine.status()["renewal"]["problem"] is None, machine.messages(f"_SYSTEMD_UNIT={UNIT}")
    assert "renewed by itself at" in machine.run("vps-secrets status").out
    machine.write("/run/reader.sh", READER.format(app=APP), 0o755)
    machine.run("install -m 0666 /dev/null /run/read; install -m 0666 /dev/null /run/reads")
    reader = machine.start("runuser", "-u", USER, "--", "bash", "-o", "pipefail", "/run/reader.sh")
    for generation, days in enumerate((61, 122, 183), 2):
        joined.renew(days)
        assert joined.names() == [f"vps-secrets-{generation}"]
        machine.refresh()
        renewal = machine.status()["renewal"]
        assert renewal["problem"] is None
    machine.run("touch /run/stop")
    reader.communicate(timeout=60)
    assert machine.run("sort -u /run/read | wc -l").out.strip() == "1"
    assert int(machine.run("wc -l </run/reads").out) > 10
    assert machine.status()["cycles"]["failed"] == 0
    assert machine.run("ls -a /etc/vps-secrets-agent").out.split()[2:] == [
        "account-password.cred",
        "agent.toml",
        "keystone-credential.cred",
        "renewal.json",
    ]
    assert (
        "vps_secrets_renewal_problem 0"
        in machine.run("curl --silent --unix-socket /run/vps-secrets/control.sock http://x/metrics").out
    )


def test_a_year_off_and_a_password_that_is_refused(joined: Joined) -> None:
    """The first is renewed by the first start, and has a new password; the second is told."""
    machine, tenant = joined.machine, joined.tenant
    machine.run(f"systemctl start {UNIT}", timeout=300)  # it learns since when it has its password
    joined.renew(400)
    assert "the account has a new password" in machine.messages(f"_SYSTEMD_UNIT={UNIT}")
    machine.refresh()
    assert machine.status()["cycles"]["failed"] <= 1
    tenant.identity.change("users", joined.user_id, "reset", password="x" * 40)
    with pytest.raises(AssertionError):
        joined.renew(500)
    assert "Keystone refuses this machine's password" in "".join(machine.status()["warnings"])
    assert "its renewal needs somebody" in machine.run("vps-secrets status").out
    assert machine.digest("JWT_SECRET")


def test_a_vps_that_was_set_up_by_hand(serving: Installed) -> None:
    """Nothing runs and nothing is said, by the timer or by hand."""
    serving.run(f"systemctl start vps-secrets-renew.timer {UNIT}")
    assert serving.show("vps-secrets-renew.timer", "ActiveState") == "inactive"
    assert serving.messages(f"_SYSTEMD_UNIT={UNIT}") == ""
    assert serving.status()["renewal"] is None
    assert serving.run("systemctl --failed --no-legend").out == ""
