"""The deployer's package beside the agent's on booted Debians: from a portal to the application."""

from __future__ import annotations

import contextlib
import functools
import json
import re
import secrets
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest

from deployer.cloud.accounts import ACKNOWLEDGING_RULES
from deployer.worker.recording import CLAIMED
from lab.testbed import tenant
from lab.testbed.join import join
from lab.testbed.machine import image_of
from lab.testbed.postgresql import SUPERUSER, Postgresql
from lab.testbed.prometheus import free_port
from tests.system.installed import ROOT, USER, Installed
from tests.system.probing import possible_in
from tests.system.scan import forms, found
from tests.system.test_readme import SUDO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deployer.cloud.accounts import ApplicationCredential
    from lab.testbed.cloud import Cloud
    from lab.testbed.tenant import Tenant

API, WORKER = "vps-secrets-deployer-api.service", "vps-secrets-deployer-worker.service"
SOCKETS = (
    *("vps-secrets-deployer-api.socket", "vps-secrets-deployer-worker.socket"),
    *("vps-secrets-registrar.socket", "vps-secrets-deployer-hook.socket"),
)
TIMERS = (
    *("vps-secrets-deployer-backup.timer", "vps-secrets-deployer-prove.timer"),
    "vps-secrets-deployer-report.timer",
)
BACKUP = "vps-secrets-deployer-backup"
REPORT = "vps-secrets-deployer-report.service"
PLACE = "/etc/vps-secrets-deployer"
STATE = "/var/lib/vps-secrets-deployer"
PORTAL = "recruitiq-portal"
CURL = "curl -sS --fail-with-body --unix-socket /run/vps-secrets-deployer/api.sock"
VPS = "vps-system-001"
ROLE = "vps_secrets"
AS_ROOT = f"PGPASSFILE={PLACE}/passfile-root"
OFTEN = '[OFTEN]\nkind = "random"\nrotate = "20s"\n'
GIVEN = b"canary-5e0c71-smtp-password"
BLUEPRINT = """
[JWT_SECRET]
kind = "random"
rotate = "30d"
[SMTP_PASSWORD]
kind = "external"
rotate = "180d"
"""


@contextlib.contextmanager
def both_installed(rootfs: Path, *debs: Path) -> Iterator[Installed]:
    """Boot, and install both packages in one go."""
    with Installed(rootfs, f"--bind-ro={debs[0].parent}:/debs") as machine:
        names = " ".join(f"/debs/{deb.name}" for deb in debs)
        machine.run(f"useradd --create-home {USER}; apt-get install --yes --no-install-recommends {names}")
        yield machine


def site_configuration(shipped: str, auth_url: str, credential_id: str) -> str:
    """Return the shipped file, with what a site must say and, for the tests, with short times."""
    text = shipped
    for before, after in (
        ('auth_url = "https://keystone.example.org/v3"', f'auth_url = "{auth_url}"'),
        (
            f'# application_credential_id = "{"0" * 32}"   # the',
            f'application_credential_id = "{credential_id}" # ',
        ),
        ('# api_user = "', 'api_user = "'),
        ('# worker_user = "', 'worker_user = "'),
        (
            '# default = "required"',
            'default = "off"',
        ),  # the VPS of this test is set up by hand, and has no key
        ('# sweep = "60s"', 'sweep = "200ms"'),
        ('# interval = "1h"', 'interval = "1s"'),
        ('# lease = "2m"', 'lease = "5s"'),  # what a killed worker had begun waits for so long
        ("# calls_per_second = 10 ", "calls_per_second = 1000 "),
    ):
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    return f'{text}\n[[role]]\nrole = "portal"\nuser = "{PORTAL}"\n'


def set_up_the_deployer(machine: Installed, cloud: Cloud, site: Tenant) -> None:
    """Run every command of the document, but the first: the package is there."""
    section = (ROOT / "docs/deployment.md").read_text().partition("\n## Install\n")[2].partition("\n## ")[0]
    commands = re.findall(r"^    (.*)$", section, re.MULTILINE)
    assert len(commands) == 11
    machine.cloud, machine.site = cloud, site
    machine.run(f"useradd --create-home {PORTAL}")
    machine.write("/run/barbican", cloud.deployer.secret, 0o600)
    machine.write("/run/registrar", site.manager_password, 0o600)
    machine.write(f"{PLACE}/blueprints/backend.toml", BLUEPRINT)
    for command in commands[1:]:
        machine.run(f"{SUDO}{command}")
        if command.startswith("sudo install"):
            shipped = machine.run(f"cat {PLACE}/deployer.toml").out
            machine.write(
                f"{PLACE}/deployer.toml", site_configuration(shipped, cloud.auth_url, cloud.deployer.id)
            )
    machine.until(lambda: active(machine, API, WORKER, *SOCKETS))


def active(machine: Installed, *units: str) -> bool:
    """Tell whether all of the units are."""
    return all(machine.show(unit, "ActiveState") == "active" for unit in units)


class FarDatabase(Postgresql):
    """PostgreSQL over TCP, with a database for the deployer and its role, who has a password."""

    def __init__(self) -> None:
        self.port = free_port()
        super().__init__({"listen_addresses": "127.0.0.1", "port": str(self.port)})
        self.password = secrets.token_urlsafe()

    def __enter__(self) -> Self:
        super().__enter__()
        self._psql(f"CREATE ROLE {ROLE} LOGIN PASSWORD '{self.password}'")
        self._psql(f"CREATE DATABASE {ROLE} OWNER {ROLE}")
        return self

    def count(self, condition: str, what: str = "*") -> int:
        """Return how many rotations are so."""
        return int(self._psql(f"SELECT count({what}) FROM rotation WHERE {condition}", ROLE))  # noqa: S608

    def _psql(self, statement: str, database: str = "postgres") -> str:
        at = [f"--host={self.directory}", f"--port={self.port}", f"--username={SUPERUSER}", database]
        command = [
            str(self.program("psql")),
            *("--no-psqlrc", "--tuples-only", f"--command={statement}"),
            *at,
        ]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


class Portal:
    """A program of the user recruitiq-portal on the machine."""

    def __init__(self, machine: Installed) -> None:
        self._machine = machine

    def ask(self, method: str, path: str, body: str = "", kind: str = "application/json") -> dict[str, Any]:
        """Ask for something; return the answer."""
        data = f"--header 'Content-Type: {kind}' --data-binary @-" if body else ""
        done = self._machine.run(
            f"{CURL} --request {method} {data} http://localhost/v1{path}", given=body, user=PORTAL
        )
        answer: dict[str, Any] = json.loads(done.out)
        return answer

    def version(self, name: str) -> str:
        """Return which version of a secret is current."""
        shown = self.ask("GET", f"/vps/{VPS}")["secrets"]
        return next(str(one["version"]) for one in shown if one["name"] == name)

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for what the deployer does; where it does not come true, tell what the deployer says of it."""
        try:
            self._machine.until(condition)
        except AssertionError:
            told = self._machine.run(
                f"vps-secrets-deploy vps show {VPS}; vps-secrets-deploy status; "
                "journalctl --no-pager --lines 60 --unit 'vps-secrets-deployer*' --unit 'vps-secrets-reg*'",
                check=False,
            )
            pytest.fail(f"waited in vain:\n{told.out}{told.err}")

    def done(self, operation: str) -> bool:
        """Tell whether an operation is."""
        state = self.ask("GET", f"/operations/{operation}")["state"]
        assert state != "failed"
        return bool(state == "done")


def join_as_the_vps(portal: Portal, site: Tenant) -> ApplicationCredential:
    """Claim the identity, and take it over as a new machine does."""
    told = portal.ask("POST", f"/vps/{VPS}/claim")

    def until_unlocked() -> None:
        portal.until(lambda: portal.ask("GET", f"/vps/{VPS}")["vps"]["state"] in CLAIMED)

    whole = (told["authUrl"], told["userId"], told["oneTimePassword"], site.runtime_id)
    return join(*whole, until_unlocked, rules=ACKNOWLEDGING_RULES).credential


def set_up_the_agent(machine: Installed, portal: Portal, credential: ApplicationCredential) -> None:
    """Have it serve, and say in its container what it serves."""
    shown = portal.ask("GET", f"/vps/{VPS}")["vps"]
    machine.run(
        f"vps-secrets setup --vps-id {VPS} --container {shown['container']} "
        f"--auth-url {machine.cloud.auth_url} --application-credential-id {credential.id} --user {USER}",
        given=credential.secret,
    )
    machine.run(
        "sed --in-place 's/^\\[fetch\\]$/&\\nacknowledge = true/' /etc/vps-secrets-agent/agent.toml; "
        "systemctl reload vps-secrets-agent"
    )


def rotated(machine: Installed, portal: Portal, disturb: Callable[[], object]) -> str:
    """Order a rotation, disturb what carries it out, and wait until it has arrived; return its digest."""
    before, served = portal.version("JWT_SECRET"), machine.digest("JWT_SECRET")
    body = json.dumps({"reason": "test", "names": ["JWT_SECRET"]})
    operation = portal.ask("POST", f"/vps/{VPS}/rotate", body)["id"]
    disturb()
    machine.until(lambda: active(machine, API, WORKER))
    portal.until(lambda: portal.version("JWT_SECRET") != before)

    def arrived() -> bool:
        machine.run("vps-secrets refresh", check=False)
        return portal.done(operation)

    portal.until(arrived)
    assert machine.digest("JWT_SECRET") not in {"", served}
    return machine.digest("JWT_SECRET")


@pytest.mark.timeout(600)
def test_from_the_portal_to_the_application(
    rootfs: Path, deb: Path, deployer_deb: Path, own_cloud: Cloud
) -> None:
    """Each program ended in the middle of a rotation, a reboot; then no value is on the disk, or anywhere."""
    site = tenant.make(own_cloud)
    with image_of(rootfs) as image:
        with both_installed(image, deb, deployer_deb) as machine:
            machine.run("mkdir /var/log/journal; journalctl --flush")
            set_up_the_deployer(machine, own_cloud, site)
            portal = Portal(machine)
            wish = json.dumps({"blueprint": "backend", "labels": {"env": "test"}})
            begun = portal.ask("PUT", f"/vps/{VPS}", wish)["id"]
            portal.until(lambda: portal.done(begun))
            portal.ask("PUT", f"/vps/{VPS}/secrets/SMTP_PASSWORD", GIVEN.decode(), "application/octet-stream")
            credential = join_as_the_vps(portal, site)
            set_up_the_agent(machine, portal, credential)
            assert machine.reads("SMTP_PASSWORD", GIVEN)
            assert machine.digest("JWT_SECRET") != ""
            for how in (
                f"systemctl kill --signal KILL {WORKER}",
                f"systemctl kill --signal SEGV {API}",  # asks for a core file
                f"systemctl restart {WORKER} {API}",
                (
                    "systemctl kill --signal KILL 'vps-secrets-registrar@*'; "
                    "systemctl restart vps-secrets-registrar.socket vps-secrets-deployer.target"
                ),
            ):
                rotated(machine, portal, functools.partial(machine.run, how))
            kept_apart(machine)
            answers = [
                portal.ask("GET", path) for path in (f"/vps/{VPS}", "/history", "/operations", "/figures")
            ]
            said = machine.run("cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline | tr '\\0' '\\n'").out
            machine.run("journalctl --sync")
            exported = machine.run("journalctl --output export | cat -v").out
            last = machine.digest("JWT_SECRET")
        with Installed(image) as machine:  # the same disk: it begins by itself
            machine.cloud = own_cloud
            machine.until(lambda: active(machine, API, WORKER, *SOCKETS))
            portal = Portal(machine)
            machine.until(lambda: machine.digest("JWT_SECRET") == last)
            rotated(machine, portal, lambda: None)
            exported += machine.run("journalctl --boot --output export | cat -v").out
        for value in (
            *(GIVEN, credential.secret.encode()),
            *(own_cloud.deployer.secret.encode(), site.manager_password.encode()),
        ):
            assert value.decode() not in f"{answers}{said}{exported}"
            assert found(image, *forms(value)) == 0, "a value is on the disk"
        assert found(image, VPS.encode()) == 1, "the scan does not find what is there"


def kept_apart(machine: Installed) -> None:
    """Each user has what its program needs and not what the others have."""
    modes = machine.run(f"stat --format '%n %a %G' {STATE} {STATE}/*").out.split("\n")
    assert modes[0] == f"{STATE} 2770 vps-secrets-deployer"
    assert all(line.endswith(" 660 vps-secrets-deployer") for line in modes[1:] if line), modes
    for user, what in (
        ("nobody", "connect /run/vps-secrets-deployer/api.sock"),
        ("vps-secrets-worker", "connect /run/vps-secrets-deployer/worker.sock"),
        (PORTAL, "connect /run/vps-secrets-deployer/worker.sock"),
        (PORTAL, "connect /run/vps-secrets-deployer/registrar.sock"),
        (PORTAL, "connect /run/vps-secrets-deployer/hook.sock"),
        ("vps-secrets-api", "connect /run/vps-secrets-deployer/hook.sock"),
        (PORTAL, f"read {STATE}/deployer.db"),
        (PORTAL, f"read {PLACE}/credentials/barbican-credential.cred"),
        ("vps-secrets-registrar", f"read {STATE}/deployer.db"),
        ("vps-secrets-api", f"read /run/credentials/{WORKER}/barbican-credential"),
        ("vps-secrets-registrar", f"read /run/credentials/{WORKER}/barbican-credential"),
        ("vps-secrets-worker", f"read {PLACE}/credentials/registrar-password.cred"),
    ):
        verb, path = what.split()
        assert machine.run(f"test -e {path}").code == 0
        command = f"curl -sS --unix-socket {path} http://x/" if verb == "connect" else f"cat {path}"
        assert machine.run(command, user=user, check=False).code != 0, f"{user}: {what}"
    # a connection is no role
    machine.run("usermod --append --groups vps-secrets-portal nobody")
    asked = machine.run(f"{CURL} http://localhost/v1/vps", user="nobody", check=False)
    assert (asked.code, "no-role" in asked.out) == (22, True)


@pytest.fixture(scope="module")
def deployer(rootfs: Path, deb: Path, deployer_deb: Path, cloud: Cloud) -> Iterator[Installed]:
    """A machine with both packages, whose deployer is configured and runs."""
    with both_installed(rootfs, deb, deployer_deb) as machine:
        set_up_the_deployer(machine, cloud, tenant.make(cloud))
        yield machine


UNITS = {
    "api": (API, [STATE], 4),
    "worker": (WORKER, [STATE], 12),
    "backup": ("vps-secrets-deployer-backup@.service", [f"{STATE}-backup", STATE], 12),
    "registrar": ("vps-secrets-registrar@.service", [f"{STATE}-registrar"], 12),
    "hook": ("vps-secrets-deployer-hook@.service", [], 12),
    "report": (REPORT, ["/run/vps-secrets-deployer-report"], 13),  # it has groups besides its own
}
"""With what they may write, and the exposure that they may have, times ten."""


@pytest.mark.parametrize("which", UNITS)
def test_what_the_sandbox_forbids(deployer: Installed, which: str) -> None:
    """Tried from inside, and judged by systemd."""
    unit, writable, exposure = UNITS[which]
    own = f"{writable[0]}/own" if writable else "/run/own"
    deployer.run(
        f"install -o vps-secrets-{which} -m 0600 /dev/null {own}", check=which not in {"registrar", "report"}
    )
    places = {
        "/etc/vps-secrets-agent/keystone-credential.cred": f"{PLACE}/credentials/barbican-credential.cred",
        "/run/vps-secrets/rotated": own,
    }
    found = possible_in(deployer, unit, places)
    assert found.pop("writable") == writable
    assert found.pop("uid") != 0
    assert found.pop("inet") == (which != "api")
    assert found == dict.fromkeys(found, False), "nothing else may be possible"
    judged = unit.replace("@", "@1")
    deployer.run(f"systemd-analyze security --threshold={exposure} --no-pager {judged}")


def test_backups_by_the_timer(deployer: Installed) -> None:
    """The first comes by itself; by hand; read back; a folder that is gone is an alarm until it is mended."""
    deployer.copy(Path("/usr/bin/age"), "/usr/bin/age")
    key = subprocess.run(["age-keygen"], capture_output=True, text=True, check=True).stdout
    recipient = key.partition("public key: ")[2].partition("\n")[0]
    folder = "/var/backups/vps-secrets-deployer"
    deployer.run(
        f"chmod 755 /usr/bin/age; install -d -o vps-secrets-backup -g vps-secrets-backup -m 0700 {folder}; "
        f"cp {PLACE}/deployer.toml /run/kept"
    )
    assert active(deployer, *TIMERS)
    deployer.run(f"systemctl start {BACKUP}@due {BACKUP}@prove")  # none is configured: nothing to do
    place = f'[[backup]]\nname = "nearby"\ndirectory = "{folder}"\nrecipients = ["{recipient}"]\n'
    deployer.write(f"{PLACE}/deployer.toml", deployer.run("cat /run/kept").out + place)
    deployer.run(f"systemctl restart {API}")
    assert "nearby: no backup has been made yet" in deployer.run("vps-secrets-deploy status", check=False).out
    drop_in = "/run/systemd/system/vps-secrets-deployer-backup.timer.d/soon.conf"
    deployer.write(drop_in, "[Timer]\nOnActiveSec=1s\nAccuracySec=1s\n")
    deployer.run("systemctl daemon-reload; systemctl restart vps-secrets-deployer-backup.timer")
    deployer.until(lambda: deployer.run(f"ls {folder}").out.count(".age") == 1)
    deployer.run(f"systemctl start {BACKUP}@now; systemctl start {BACKUP}@prove")
    shown = deployer.run(f"stat --format '%n %a %U' {folder}/* {STATE}-backup/signing-key").out.split("\n")[
        :-1
    ]
    assert len(shown) == 3
    assert all(line.endswith(" 600 vps-secrets-backup") for line in shown), shown
    assert "signed by " in deployer.messages("--unit", f"{BACKUP}@now.service")
    assert "proved" in deployer.messages("--unit", f"{BACKUP}@prove.service")
    deployer.run("vps-secrets-deploy status")

    deployer.run(f"mv {folder} {folder}.away")
    assert deployer.run(f"systemctl start {BACKUP}@now", check=False).code != 0
    assert deployer.show(f"{BACKUP}@now.service", "ActiveState") == "failed"
    deployer.until_said(
        f"nearby: write the backup to directory {folder}: ", "--unit", f"{BACKUP}@now.service"
    )
    told = deployer.run("vps-secrets-deploy status", check=False)
    assert (told.code, "nearby: the last try failed: write the backup" in told.out) == (1, True)
    gauges = deployer.run(f"{CURL} http://localhost/metrics").out
    assert "vps_secrets_deployer_backups_failing 1.0" in gauges
    deployer.run(f"mv {folder}.away {folder}; systemctl start {BACKUP}@now; vps-secrets-deploy status")
    assert deployer.run("systemctl --failed --no-legend").out == ""
    deployer.run(
        f"rm {drop_in}; cp /run/kept {PLACE}/deployer.toml; systemctl daemon-reload; systemctl restart {API}"
    )


def test_the_weekly_report_goes_to_a_command(deployer: Installed) -> None:
    """Nothing without one; then the page, as a user who has nothing else; one that fails is a failure."""
    deployer.run(f"systemctl start {REPORT}")
    assert "send-report" not in deployer.messages("--unit", REPORT, "_TRANSPORT=stdout")
    takes = "grep --only-matching '<h1>.*</h1>'; id --user --name; ls /var/lib/vps-secrets-deployer || true"
    deployer.write(f"{PLACE}/send-report", f"#!/bin/sh\nexec 2>&1\n{takes}\n", 0o755)
    deployer.run(f"systemctl start {REPORT}")
    said = deployer.messages("--unit", REPORT, "_TRANSPORT=stdout").splitlines()
    assert said[:2] == ["<h1>vps-secrets</h1>", "vps-secrets-report"]
    assert "cannot open directory" in said[2]
    deployer.write(f"{PLACE}/send-report", "#!/bin/sh\nexit 7\n", 0o755)
    assert deployer.run(f"systemctl start {REPORT}", check=False).code != 0
    deployer.run(f"rm {PLACE}/send-report; systemctl reset-failed {REPORT}")


def test_the_doctor(deployer: Installed) -> None:
    """As installed nothing has failed; a drop-in that weakens a unit is named."""

    def failed() -> list[dict[str, str]]:
        found = json.loads(deployer.run("vps-secrets-deploy doctor --json", check=False).out)["findings"]
        assert {WORKER, *SOCKETS, *TIMERS} <= {one["what"] for one in found if one["level"] == "ok"}
        # a test machine's own disk may be as full as it likes
        return [one for one in found if one["level"] == "failure" and one["what"] != "disk"]

    assert failed() == []
    deployer.write(f"/run/systemd/system/{WORKER}.d/weak.conf", "[Service]\nNoNewPrivileges=no\n")
    deployer.run("systemctl daemon-reload")
    (found,) = failed()
    assert (found["what"], f"{WORKER} is weaker" in found["words"]) == ("sandbox", True)
    assert "weak.conf" in found["remedy"]
    deployer.run(f"rm -r /run/systemd/system/{WORKER}.d; systemctl daemon-reload")


def test_one_command_serves_from_the_package(deployer: Installed) -> None:
    """``serve`` finds the programs where the package has them; where one can't start, it says so and ends."""
    folder, cloud = "/root/try", deployer.cloud
    for name, content in (("barbican", cloud.deployer.secret), ("registrar", "x" * 20), ("key", "k" * 64)):
        deployer.write(f"{folder}/{name}", content, 0o600)
    deployer.write(
        f"{folder}/deployer.toml",
        f'[database]\nurl = "sqlite:///{folder}/deployer.db"\n[keystone]\nauth_url = "{cloud.auth_url}"\n'
        f'[api]\nsocket = "{folder}/api.sock"\n[worker]\nsocket = "{folder}/worker.sock"\n'
        f'application_credential_id = "{cloud.deployer.id}"\ncredential_file = "{folder}/barbican"\n'
        f'[registrar]\nsocket = "{folder}/registrar.sock"\ncredential_file = "{folder}/registrar"\n'
        f'key_file = "{folder}/key"\n',
    )
    command = ("vps-secrets-deploy", "serve", "--config", f"{folder}/deployer.toml")
    serving = deployer.start(*command)
    # not "status": this registrar's password is wrong, which is a failed check there, and so status 1
    asked = f"vps-secrets-deploy vps list --socket {folder}/api.sock"
    deployer.until(lambda: serving.poll() is not None or deployer.run(asked, check=False).code == 0)
    assert serving.poll() is None, serving.communicate()
    assert deployer.run(f"ls {folder}/worker.sock {folder}/registrar.sock").code == 0
    status = deployer.run(f"vps-secrets-deploy status --socket {folder}/api.sock", check=False)
    assert status.code == 1
    assert "Keystone refused the login with HTTP 401" in status.out
    deployer.run("pkill --full --oldest 'vps-secrets-deploy serve'")
    _, said = serving.communicate(timeout=90)
    assert serving.returncode == 0, said
    deployer.run(f"chmod 644 {folder}/barbican")
    refused = deployer.run(" ".join(command), check=False)
    assert refused.code == 1
    assert f"read {folder}/barbican: others can read or write it" in refused.err
    assert "the worker ended with status" in refused.err


def test_what_root_types_has_the_units_credentials(deployer: Installed) -> None:
    """It logs in as the worker does, and nobody else can; a file of another machine is told."""
    ask = "vps-secrets-deploy adopt vps-none --blueprint backend"
    assert "Barbican has no container of vps-none" in deployer.run(ask, check=False).err
    other = deployer.run(ask, user=PORTAL, check=False)
    assert "CREDENTIALS_DIRECTORY is not set" in other.err
    cred = f"{PLACE}/credentials/barbican-credential.cred"
    deployer.run(f"mv {cred} /run/kept.cred; cp {PLACE}/credentials/registrar-key.cred {cred}")
    assert "systemd-creds can't decrypt it" in deployer.run(ask, check=False).err
    deployer.run(f"mv /run/kept.cred {cred}")


@pytest.mark.parametrize("unit", [API, WORKER])
def test_one_that_hangs_is_started_again(deployer: Installed, unit: str) -> None:
    """By the watchdog; its socket listens meanwhile, and no core file is made."""
    before = deployer.show(unit, "InvocationID")
    limits = deployer.run(f"cat /proc/{deployer.pid(unit)}/limits").out
    assert [line.split()[4:6] for line in limits.splitlines() if "core" in line] == [["0", "0"]]
    drop_in = f"/run/systemd/system/{unit}.d/soon.conf"
    deployer.write(drop_in, "[Service]\nWatchdogSec=3\n")
    deployer.run(f"systemctl daemon-reload; systemctl restart {unit}")
    hung = deployer.show(unit, "InvocationID")
    assert hung != before
    deployer.run(f"kill -STOP {deployer.pid(unit)}")
    deployer.until(lambda: deployer.show(unit, "InvocationID") not in {"", hung} and active(deployer, unit))
    deployer.run(f"rm {drop_in}; systemctl daemon-reload; systemctl restart {unit}")


def test_a_mistake_is_told_and_mended(deployer: Installed) -> None:
    """The program is started again until it is; nothing is left failed, the sockets stay."""
    deployer.run(f"cp {PLACE}/deployer.toml /run/kept; echo 'nonsense = 1' >>{PLACE}/deployer.toml")
    for unit in (API, WORKER):
        assert deployer.run(f"systemctl restart {unit}", check=False).code != 0
        deployer.until_said("nonsense", "--unit", unit)
    deployer.run(f"cp /run/kept {PLACE}/deployer.toml")
    deployer.until(lambda: active(deployer, API, WORKER, *SOCKETS))


@pytest.fixture
def far_database(deployer: Installed) -> Iterator[FarDatabase]:
    """Have the deployer's database on a PostgreSQL of another machine: the host. SQLite again at the end."""
    with FarDatabase() as server:
        url = f"postgresql+psycopg2://{ROLE}@127.0.0.1:{server.port}/{ROLE}"
        for user in ("vps-secrets-api", "vps-secrets-worker", "root"):
            deployer.write(f"{PLACE}/passfile-{user}", f"127.0.0.1:*:*:{ROLE}:{server.password}\n", 0o600)
            deployer.run(f"chown {user} {PLACE}/passfile-{user}")
        for unit, user in ((API, "vps-secrets-api"), (WORKER, "vps-secrets-worker")):
            text = f"[Service]\nEnvironment=PGPASSFILE={PLACE}/passfile-{user}\n"
            deployer.write(f"/etc/systemd/system/{unit}.d/database.conf", text)
        deployer.run(
            f"cp /usr/share/vps-secrets-deployer/api-network.conf /etc/systemd/system/{API}.d/; "
            f"cp {PLACE}/deployer.toml /run/kept; cp {PLACE}/blueprints/backend.toml /run/kept-blueprint; "
            f"sed --in-place 's|^\\[database\\]$|&\\nurl = \"{url}\"|' {PLACE}/deployer.toml"
        )
        deployer.write(f"{PLACE}/blueprints/backend.toml", BLUEPRINT + OFTEN)
        deployer.run(f"{AS_ROOT} vps-secrets-deploy blueprint apply")
        deployer.run(f"systemctl daemon-reload; systemctl restart {API} {WORKER}")
        deployer.until(lambda: active(deployer, API, WORKER))
        yield server
        deployer.run(
            f"rm -r /etc/systemd/system/{API}.d /etc/systemd/system/{WORKER}.d {PLACE}/passfile-*; "
            f"cp /run/kept {PLACE}/deployer.toml; cp /run/kept-blueprint {PLACE}/blueprints/backend.toml; "
            f"systemctl daemon-reload; systemctl restart {API} {WORKER}"
        )


@pytest.mark.timeout(1200)
def test_the_database_goes_away_and_comes_back(deployer: Installed, far_database: FarDatabase) -> None:
    """Whoever is asked says so, agents go on; then all goes on by itself: late, once, with nobody's help."""
    portal = Portal(deployer)
    begun = portal.ask("PUT", f"/vps/{VPS}", json.dumps({"blueprint": "backend"}))["id"]
    portal.until(lambda: portal.done(begun))
    set_up_the_agent(deployer, portal, join_as_the_vps(portal, deployer.site))
    served = deployer.digest("JWT_SECRET")
    body = json.dumps({"reason": "test", "names": ["JWT_SECRET"]})
    order = portal.ask("POST", f"/vps/{VPS}/rotate", body)["id"]
    far_database.stop()  # in the middle of it, or before it began
    told_that_it_is_away(deployer)
    deployer.run(f"systemctl restart --no-block {WORKER}; systemctl restart {API}")
    told_by_the_api(deployer)
    deployer.until(lambda: int(deployer.show(WORKER, "NRestarts")) > 0)
    assert deployer.digest("JWT_SECRET") != "", "the agent goes on"

    far_database.start()
    assert_arrived(deployer, portal, order)
    deployer.until(lambda: active(deployer, API, WORKER))
    assert deployer.digest("JWT_SECRET") not in {"", served}
    scheduled = far_database.count("reason = 'schedule' AND listed_at IS NOT NULL")
    for how in (signal.SIGINT, signal.SIGQUIT):  # in order, and as by a crash: it is started again
        order = portal.ask("POST", f"/vps/{VPS}/rotate", body)["id"]
        far_database.stop(how)
        far_database.start()
        assert_arrived(deployer, portal, order)
    listed = "reason = 'schedule' AND listed_at IS NOT NULL"
    portal.until(lambda: far_database.count(listed) > scheduled)  # what comes due goes on
    assert (
        far_database.count("grp = 'JWT_SECRET'")
        == far_database.count("grp = 'JWT_SECRET' AND state = 'arrived'")
        == 3
    )
    assert far_database.count("true") == far_database.count("true", "DISTINCT (grp, reason, due, wanted_at)")
    names = [one["name"] for one in portal.ask("GET", f"/vps/{VPS}")["secrets"]]
    assert sorted(names) == ["JWT_SECRET", "OFTEN", "SMTP_PASSWORD"]
    deployer.until_said("answers again; it was away for", "--unit", API)
    deployer.run(f"vps-secrets-deploy vps retire {VPS} --reason test --confirm {VPS}")  # the cloud is shared
    assert deployer.run("systemctl --failed --no-legend").out == ""


def told_that_it_is_away(machine: Installed) -> None:
    """Worker, API, dashboard, metrics and commands: what failed, that nothing was changed, and what to do."""
    for unit in (API, WORKER):
        machine.until_said("the server gives no session", "--unit", unit)
    told_by_the_api(machine)
    for words in ("status", f"rotate {VPS} JWT_SECRET --reason test"):
        asked = machine.run(f"vps-secrets-deploy {words}", check=False)
        assert (asked.code, asked.out) == (1, "")
        assert "its log says which. Nothing was changed. Ask again" in asked.err
    asked = machine.run(f"{AS_ROOT} vps-secrets-deploy blueprint apply", check=False)
    assert (asked.code, "run it again when that is mended" in asked.err) == (1, True), asked.err


def told_by_the_api(machine: Installed) -> None:
    """For programs, for people, for Prometheus."""
    for path in ("", "v1/vps", "metrics"):
        asked = machine.run(f"{CURL} --write-out '%{{http_code}}' http://localhost/{path}", check=False)
        assert (asked.code, asked.out[-3:]) == (22, "503"), asked.out
        assert "the server gives no session" in asked.out


def assert_arrived(machine: Installed, portal: Portal, order: str) -> None:
    """Wait until the agent has said that it serves what an order made."""

    def arrived() -> bool:
        machine.run("vps-secrets refresh", check=False)
        asked = machine.run(f"{CURL} http://localhost/v1/operations/{order}", user=PORTAL, check=False)
        return not asked.code and json.loads(asked.out)["state"] == "done"

    portal.until(arrived)


def test_a_network_for_the_api_is_a_drop_in(deployer: Installed) -> None:
    """Without it, there is none; the shipped file gives one."""
    place = f"/etc/systemd/system/{API}.d"
    settings = ("PrivateNetwork", "RestrictAddressFamilies", "IPAddressDeny")
    before = [deployer.show(API, name) for name in settings]
    assert before[:2] == ["yes", "AF_UNIX"]
    deployer.run(f"mkdir {place}; cp /usr/share/vps-secrets-deployer/api-network.conf {place}/")
    deployer.run(f"systemctl daemon-reload; systemctl restart {API}; vps-secrets-deploy status")
    after = [deployer.show(API, name) for name in settings]
    assert after[:1] + after[2:] == ["no", ""]
    assert set(after[1].split()) == {"AF_UNIX", "AF_INET", "AF_INET6"}
    deployer.run(f"rm -r {place}; systemctl daemon-reload; systemctl restart {API}")


def test_installed_alone_and_purged(rootfs: Path, deb: Path, deployer_deb: Path) -> None:
    """Nothing runs or fails before a configuration; a purge leaves users and no file; the agent stays."""
    with both_installed(rootfs, deb, deployer_deb) as machine:
        assert machine.run("systemctl is-system-running").out.strip() == "running"
        for unit in (API, WORKER, *SOCKETS, *TIMERS, "vps-secrets-deployer.target"):
            assert machine.show(unit, "ActiveState") == "inactive"
            assert machine.show(unit, "UnitFileState") == "enabled"
        assert machine.run("ls /run/vps-secrets-deployer", check=False).code != 0
        machine.run(f"vps-secrets-deploy --help; cp /usr/share/vps-secrets-deployer/deployer.toml {PLACE}/")
        machine.run(f"systemctl start {API} {SOCKETS[0]}")
        machine.run("vps-secrets-deploy status")
        machine.run(f"apt-get install --yes --reinstall --no-install-recommends /debs/{deployer_deb.name}")
        machine.run("vps-secrets-deploy status")
        machine.run("apt-get purge --yes vps-secrets-deployer")
        left = machine.run("find / -xdev -path '*vps-secrets-*' -not -path '/proc/*'").out.split()
        ours = [path for path in left if "secrets-deploy" in path or "secrets-registrar" in path]
        elsewhere = ("/debs", "/var/lib/dpkg", "/var/log", "/var/cache")
        assert [path for path in ours if not path.startswith(elsewhere)] == []
        assert machine.run("systemctl --failed --no-legend").out == ""
        machine.until(lambda: machine.show("vps-secrets-agent.service", "ActiveState") == "active")
