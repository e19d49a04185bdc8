"""A new VPS under cloud-init itself: from its first boot to the first secret, and whatever comes between."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from agent.identity.account import Account, Refusal
from agent.identity.calls import Line
from lab.testbed import first_boot
from lab.testbed.fakes.proxy import FaultProxy
from lab.testbed.fakes.tls import tls_context
from lab.testbed.first_boot import JOIN, Claimed
from tests.system.installed import Installed
from tests.system.scan import forms

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lab.testbed.cloud import Cloud
    from lab.testbed.site import Site

pytestmark = pytest.mark.timeout(1200)
DEADLINE_S = 300.0
"""On a machine that is busy; 60 s are promised."""
THIEF = "a thief's own password, of many characters"
SOON = "[Service]\nRestartSec=1\nExecStart=\nExecStart=/usr/bin/vps-secrets join --timeout 4\n"
STATE = "/var/lib/vps-secrets-join"
CLAIM = f"{STATE}/claim.json"
CUT_AFTER = ("join", "claim", "key", "credential", "configuration", "serving")
"""How the lines of its journal begin."""


@pytest.fixture(scope="module")
def cloud_rootfs(rootfs: Path) -> Path:
    """The same Debian with cloud-init."""
    path = rootfs.with_name(f"{rootfs.name}-cloud")
    assert (path / "usr/bin/cloud-init").exists(), "run scripts/rootfs-cloud first, or scripts/test-system"
    return path


@pytest.fixture(scope="module")
def image(cloud_rootfs: Path, deb: Path) -> Iterator[Path]:
    """What a VPS boots with besides: package and application."""
    with first_boot.image(cloud_rootfs, deb) as layer:
        yield layer


@pytest.fixture(scope="module")
def site(cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A deployer that runs."""
    with first_boot.site(cloud, tmp_path_factory.mktemp("site")) as made:
        made.serve(first_boot.BLUEPRINT)
        yield made


def joined(machine: Installed) -> bool:
    """Tell whether the unit has done its work."""
    return machine.show(JOIN, "ActiveState") == "inactive" and machine.show(JOIN, "Result") == "success"


def shown(site: Site, vps_id: str) -> dict[str, Any]:
    """Return what the deployer says of a VPS."""
    content: dict[str, Any] = json.loads(site.command("vps", "show", vps_id, "--json").stdout)
    return content


def is_dead(claimed: Claimed) -> None:
    """Try the one-time password."""
    account = Account(Line(), claimed.auth_url, claimed.user_id)
    assert account.log_in(claimed.one_time_password) is Refusal.WRONG
    assert not account.change_password(claimed.one_time_password, THIEF)


def having(folder: Path, *words: bytes) -> list[str]:
    """Return the files below a folder that have one of the words."""
    return [
        str(path)
        for path in folder.rglob("*")
        if not path.is_symlink() and path.is_file() and any(word in path.read_bytes() for word in words)
    ]


def test_from_the_first_boot_to_the_first_secret(cloud_rootfs: Path, image: Path, site: Site) -> None:
    """Nobody types anything; what it came with is worthless then, and nowhere on the machine."""
    vps_id = f"vps-first-{cloud_rootfs.name}"
    claimed = first_boot.claimed(site, vps_id)
    with Installed(cloud_rootfs, first_boot.attached(claimed.user_data), layer=image) as machine:
        machine.until_said(first_boot.HAS_IT, seconds=DEADLINE_S)
        assert machine.digest("JWT_SECRET") not in {"", machine.digest("SESSION_SECRET")}
        assert machine.digest("JWT_SECRET", user="nobody") == ""
        machine.until(lambda: joined(machine), DEADLINE_S)
        assert machine.show(JOIN, "NRestarts") == "0"
        assert "status: done" in machine.run("cloud-init status --wait", check=False).out
        assert machine.run("systemctl --failed --no-legend").out == ""
        is_dead(claimed)
        machine.until(lambda: shown(site, vps_id)["vps"]["state"] == "serving", DEADLINE_S)

        assert machine.run(f"ls -A {STATE}").out == ""
        said = machine.run("journalctl --output export | cat -v; systemctl status 'vps-secrets-*' 2>&1").out
        said += machine.run("cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline | tr '\\0' '\\n'").out
        assert claimed.one_time_password not in said
        assert "its password, worthless now, is overwritten in " in said
        machine.run(f"cp -a /run /tmp /dev/shm {STATE} /root/", check=False)  # what is in no disk, too
        words = list(forms(claimed.one_time_password.encode()))
        assert having(machine.changes, *words) == []
        assert having(machine.changes, claimed.user_id.encode()) != [], "the scan does not find what is there"
        machine.run(f"systemd-analyze security --threshold=16 --no-pager {JOIN}")
        machine.reboot()  # cloud-init brings back what it keeps
        machine.until(lambda: machine.digest("JWT_SECRET") != "")
        assert machine.run("cloud-init status --wait", check=False).out.strip() == "status: done"
        assert having(machine.changes, *words) == []


def test_it_says_why_it_waits_and_goes_on(bare: Installed, site: Site, tmp_path: Path) -> None:
    """Its clock is wrong, then the deployer is away: journal and status tell it, and both pass."""
    vps_id = f"vps-waits-{bare.name}"
    claimed = first_boot.claimed(site, vps_id)
    site.away()
    wrong = tls_context(tmp_path, days=60, begins_days=30)
    with FaultProxy(claimed.auth_url, "keystone", tls=wrong) as keystone:
        bare.copy(tmp_path / "ca.pem", "/etc/ca.pem")
        bare.write(f"/etc/systemd/system/{JOIN}.d/soon.conf", SOON)
        claim = claimed.members | {"authUrl": keystone.url, "caFile": "/etc/ca.pem"}
        bare.write(CLAIM, json.dumps(claim), 0o600)
        bare.run(f"systemctl daemon-reload; systemctl start --no-block {JOIN}")
        bare.until_said("certificate is not valid yet: check this machine's clock", "--unit", JOIN)
        assert "check this machine's clock" in bare.run(f"systemctl status {JOIN}", check=False).out
        right = tmp_path / "right"
        right.mkdir()
        keystone.tls = tls_context(right)
        bare.copy(right / "ca.pem", "/etc/ca.pem")
        bare.until_said("the deployer has not let this VPS in yet", "--unit", JOIN)
        bare.until_said("Run it again: it goes on where it was", "--unit", JOIN)
        bare.until(lambda: int(bare.show(JOIN, "NRestarts")) > 0)
        words = "the deployer has not let this VPS in yet"
        bare.until(lambda: words in bare.run(f"systemctl status {JOIN}", check=False).out)
        # a run under way would be let in and find a Barbican without TLS; the next one needs more than 4 s
        bare.run(f"systemctl stop {JOIN}; rm /etc/systemd/system/{JOIN}.d/soon.conf; systemctl daemon-reload")
        bare.write(CLAIM, json.dumps(claimed.members), 0o600)
        bare.run(f"systemctl start --no-block {JOIN}")
        site.serve(first_boot.BLUEPRINT)
        bare.until(lambda: joined(bare), DEADLINE_S)
        assert bare.digest("JWT_SECRET") != ""
    is_dead(claimed)


def test_somebody_was_faster(bare: Installed, site: Site) -> None:
    """It says so and ends: a failed unit that is not started again; nothing of this VPS is on the machine."""
    claimed = first_boot.claimed(site, f"vps-late-{bare.name}")
    thief = Account(Line(), claimed.auth_url, claimed.user_id)
    assert thief.change_password(claimed.one_time_password, THIEF)
    bare.write(CLAIM, json.dumps(claimed.members), 0o600)
    assert bare.run(f"systemctl start {JOIN}", check=False).code != 0
    assert (bare.show(JOIN, "ActiveState"), bare.show(JOIN, "NRestarts")) == ("failed", "0")
    assert bare.show(JOIN, "ExecMainStatus") == "1"
    status = bare.run(f"systemctl status --full {JOIN}", check=False).out
    for said in (status, bare.messages("--unit", JOIN)):
        assert "is not in force: somebody used it before this machine" in said
        assert f"vps-secrets-deploy vps retire {claimed.vps_id}" in said
        assert claimed.one_time_password not in said
    assert bare.digest("JWT_SECRET") == ""
    assert bare.run("ls /etc/vps-secrets-agent/agent.toml", check=False).code != 0


@pytest.mark.nightly
def test_a_machine_that_was_made_anew(cloud_rootfs: Path, image: Path, site: Site) -> None:
    """Another machine joins under the same id, while the former one runs on and reads nothing any more."""
    vps_id = f"vps-anew-{cloud_rootfs.name}"
    first = first_boot.claimed(site, vps_id)
    with Installed(cloud_rootfs, first_boot.attached(first.user_data), layer=image) as former:
        former.until_said(first_boot.HAS_IT, seconds=DEADLINE_S)
        former.until(lambda: joined(former), DEADLINE_S)
        former.until(lambda: shown(site, vps_id)["vps"]["state"] == "serving", DEADLINE_S)
        assert former.run("vps-secrets refresh", check=False).code == 0
        before = former.digest("JWT_SECRET")
        again = first_boot.claimed(site, vps_id, again=True)
        former.until(lambda: former.run("vps-secrets refresh", check=False).code != 0, DEADLINE_S)
        with Installed(cloud_rootfs, first_boot.attached(again.user_data), layer=image) as anew:
            anew.until_said(first_boot.HAS_IT, seconds=DEADLINE_S)
            anew.until(lambda: joined(anew), DEADLINE_S)
            anew.until(lambda: shown(site, vps_id)["vps"]["state"] == "listed", DEADLINE_S)
            assert anew.digest("JWT_SECRET") not in {"", before}
            assert anew.digest("ENCRYPTION_KEY") == ""  # sealed to the former machine: a person decides
            remarks = [one["remark"] for one in shown(site, vps_id)["secrets"] if one["remark"]]
            assert ["a key that the VPS has no more" in one for one in remarks] == [True]
            assert former.run("vps-secrets refresh", check=False).code != 0
            assert former.digest("JWT_SECRET") in {"", before}
    for claimed in (first, again):
        is_dead(claimed)


@pytest.mark.parametrize(
    "step",
    ["let in", *(pytest.param(step, marks=pytest.mark.nightly) for step in CUT_AFTER)],
    ids=lambda step: step.replace(" ", "-"),
)
def test_the_power_is_cut_while_it_joins(cloud_rootfs: Path, image: Path, site: Site, step: str) -> None:
    """After each of its steps: the next boot goes on, by itself, to the first secret."""
    claimed = first_boot.claimed(site, f"vps-cut-{step.replace(' ', '-')}-{cloud_rootfs.name}")
    with Installed(cloud_rootfs, first_boot.attached(claimed.user_data), layer=image) as machine:
        machine.until_said(f"{step} ", "--unit", JOIN, seconds=DEADLINE_S)
        machine.cut_the_power()
        machine.until(lambda: machine.digest("JWT_SECRET") != "", DEADLINE_S)
        machine.until(lambda: joined(machine), DEADLINE_S)
        assert machine.run(f"ls -A {STATE}").out == ""
        words = list(forms(claimed.one_time_password.encode()))
        assert having(machine.changes, *words) == []
    is_dead(claimed)
