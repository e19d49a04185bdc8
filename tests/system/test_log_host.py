"""docs/log-host.md, followed between two booted machines: what one records arrives at the other."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lab.testbed.cloud import Cloud
from lab.testbed.deployer import Api
from lab.testbed.machine import Machine, layer_of
from lab.testbed.testbed import Options
from tests.system.installed import APP, ROOT, USER, VALUES, booted_again, set_up
from tests.system.test_readme import SUDO

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.system.installed import Installed

NAME = "logs.example.org"
REMOTE = "/var/log/journal/remote"
PLACE = "/root/log-host"
PACKAGE = "apt-get install --yes --no-install-recommends systemd-journal-remote"
NOT_YET = "printf '#!/bin/sh\\nexit 101\\n' >/usr/sbin/policy-rc.d; chmod 755 /usr/sbin/policy-rc.d"
"""nginx would serve a page on this machine's port 80."""
UPLOAD = "systemd-journal-upload.service"
MATCHES = "_SYSTEMD_UNIT=vps-secrets-agent.service VPS_SECRETS_OUTCOME=served"
RECORD = ("VPS_SECRETS_NAME", "VPS_SECRETS_VERSION", "VPS_SECRETS_UID", "_HOSTNAME", "_SYSTEMD_UNIT")


def commands(heading: str) -> list[str]:
    """Return what a section of the document has one type."""
    text = (ROOT / "docs/log-host.md").read_text()
    section = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    found = re.findall(r"^    (.*)$", section, re.MULTILINE)
    assert found, heading
    return found


def follow(machine: Machine, heading: str, vps_id: str = "") -> None:
    """Type it; the package is there already."""
    for command in commands(heading):
        if PACKAGE not in command:
            machine.run(f"{SUDO}export VPS_ID='{vps_id}'; mkdir -p {PLACE}; cd {PLACE}\n{command}")


@contextlib.contextmanager
def small_disk() -> Iterator[Path]:
    """Make a file system of its own; yield where it is mounted."""
    with tempfile.TemporaryDirectory(prefix="vps-secrets-logs-") as folder:
        image, mounted = Path(folder, "image"), Path(folder, "mounted")
        mounted.mkdir()
        subprocess.run(["mke2fs", "-q", "-t", "ext4", str(image), "400M"], check=True)
        subprocess.run(["mount", "-o", "loop", str(image), str(mounted)], check=True)
        try:
            yield mounted
        finally:
            subprocess.run(["umount", str(mounted)], check=True)


class LogHost:
    """The machine that keeps what others send."""

    def __init__(self, machine: Machine, vps_id: str) -> None:
        self.machine = machine
        machine.run(f"chown systemd-journal-remote: {REMOTE}")
        follow(machine, "Certificates", vps_id)
        follow(machine, "On the log host", vps_id)

    def records(self) -> list[dict[str, object]]:
        """Return what has arrived of the agent's records of reads."""
        asked = f"journalctl --directory {REMOTE} --output json --no-pager {MATCHES}"
        done = self.machine.run(asked, check=False)
        return [json.loads(line) for line in done.out.splitlines()]


@contextlib.contextmanager
def pair(rootfs: Path, deb: Path, cloud: Cloud) -> Iterator[tuple[Installed, LogHost]]:
    """Boot a VPS that serves and a log host, and follow the document on both."""
    script = (
        f"useradd --create-home {USER}; apt-get install --yes --no-install-recommends /debs/*.deb;"
        f" apt-get --option Acquire::Retries=5 update; {NOT_YET}; {PACKAGE} nginx; rm /usr/sbin/policy-rc.d"
    )
    options = f"--bind-ro={deb.parent}:/debs"
    with contextlib.ExitStack() as stack:
        layer = stack.enter_context(layer_of(rootfs, script, options))
        disk = stack.enter_context(small_disk())
        logs = stack.enter_context(Machine(rootfs, options, f"--bind={disk}:{REMOTE}", layer=layer))
        vps = stack.enter_context(booted_again(rootfs, layer, deb))
        vps.run("mkdir -p /var/log/journal; systemctl restart systemd-journald")
        set_up(vps, cloud, vps.name)
        host = LogHost(logs, vps.name)
        for name in ("ca.pem", f"{vps.name}.pem", f"{vps.name}.key"):
            vps.write(f"{PLACE}/{name}", logs.run(f"cat {PLACE}/{name}").out, 0o600)
        vps.run(f"echo 127.0.0.1 {NAME} >>/etc/hosts")  # both machines have the network of this one
        follow(vps, "On each VPS", vps.name)
        yield vps, host


def read(vps: Installed, times: int) -> None:
    """Have the application read, and wait until its records are in the journal."""
    before = len(own(vps))
    vps.run(f"for i in $(seq {times}); do {APP} --fail http://x/v1/secrets/JWT_SECRET; done", user=USER)
    vps.until(lambda: len(own(vps)) == before + times)


def own(vps: Installed) -> list[dict[str, object]]:
    """Return the records of the VPS's own journal."""
    return vps.journal(*MATCHES.split())


def keys(records: list[dict[str, object]]) -> set[tuple[str, ...]]:
    """Return what makes each record what it is: after a lost answer, some arrive twice."""
    return {tuple(str(one.get(name)) for name in ("__REALTIME_TIMESTAMP", *RECORD)) for one in records}


def arrived(vps: Installed, host: LogHost) -> bool:
    """Tell whether the log host has what the VPS has."""
    return keys(host.records()) == keys(own(vps))


def report(host: LogHost, cloud: Cloud) -> dict[str, Any]:
    """Return the week by the records of the log host and Barbican's audit, both sides joined."""
    (command,) = [one for one in commands("Ask it") if "vps-secrets-deploy" in one]
    records = host.machine.run(command.partition(" |")[0]).out
    with Api() as api:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "deployer.cli", "report", "--json", "--socket", str(api.socket)),
                *("--barbican-audit", str(cloud.testbed.log("barbican"))),
            ],
            cwd=ROOT,
            input=records,
            capture_output=True,
            text=True,
            check=True,
        )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def both_sides(vps: Installed, host: LogHost, cloud: Cloud) -> None:
    """What the agent read is in Barbican's audit by the same id; what a thief read is a finding."""
    found = report(host, cloud)
    assert found["versions"]["followed"] == found["versions"]["served"] >= 1
    assert found["barbican"]["byAgents"] >= len(VALUES)
    known = found["barbican"]["unknown"]  # setup has tried the credential, and records nothing
    thief = cloud.accounts.log_in_with(cloud.runtime[vps.name].credential)
    (entry, *_) = thief.get(vps.vps.container_ref).json()["secret_refs"]
    thief.get(f"{entry['secret_ref']}/payload", headers={"Accept": "application/octet-stream"})
    read(vps, 1)
    vps.until(lambda: arrived(vps, host))
    found = report(host, cloud)
    assert sum(one["count"] for one in found["barbican"]["unknown"]) == 1 + sum(one["count"] for one in known)
    assert found["findings"][0]["words"].startswith("Barbican gave a value")
    assert {one["user"] for one in found["barbican"]["unknown"]} == {vps.name}
    assert (ROOT / found["findings"][0]["remedy"]).exists()


def an_outage_and_a_full_disk(rootfs: Path, deb: Path, cloud: Cloud) -> None:
    """Every record of a read arrives; who has no certificate writes none."""
    with pair(rootfs, deb, cloud) as (vps, host):
        assert vps.reads("JWT_SECRET", VALUES["JWT_SECRET"])
        read(vps, 5)
        vps.until(lambda: arrived(vps, host))
        files = host.machine.run(f"ls {REMOTE}").out
        assert f"{vps.name}.journal" in files, "the file has the certificate's name"
        asked = f"cd {PLACE}; curl --silent --cacert ca.pem --resolve {NAME}:19532:127.0.0.1"
        sent = "--header 'Content-Type: application/vnd.fdo.journal' --data-binary MESSAGE=x"
        stranger = host.machine.run(
            f"{asked} --write-out '%{{http_code}}' {sent} https://{NAME}:19532/upload", check=False
        ).out
        assert stranger.endswith("400"), "nginx: no certificate was sent"

        both_sides(vps, host, cloud)

        host.machine.lose_power()
        read(vps, 5)
        vps.until(lambda: vps.show(UPLOAD, "NRestarts") != "0")
        host.machine.boot()
        vps.until(lambda: arrived(vps, host))

        host.machine.run(f"head --bytes 1G /dev/zero >{REMOTE}/full", check=False)
        refused = len(vps.messages("--unit", UPLOAD, "--grep", "failed").splitlines())
        read(vps, 5)
        vps.run("head --bytes 24M /dev/urandom | base64 --wrap 40000 | logger --size 40000")
        vps.until(lambda: len(vps.messages("--unit", UPLOAD, "--grep", "failed").splitlines()) > refused)
        host.machine.run(f"rm {REMOTE}/full")
        vps.until(lambda: arrived(vps, host))
        host.machine.run("systemctl start vps-secrets-log-age.service")
        assert arrived(vps, host), "nothing of it is a year old"


@pytest.fixture
def audited() -> Iterator[Cloud]:
    """A cloud whose Barbican keeps an audit of its own."""
    with Cloud(Options(audit=True)) as made:
        yield made


@pytest.mark.parametrize("rootfs", ["bookworm"], indirect=True)
def test_nothing_is_lost(rootfs: Path, deb: Path, audited: Cloud) -> None:
    """On Debian 12."""
    an_outage_and_a_full_disk(rootfs, deb, audited)


@pytest.mark.nightly
@pytest.mark.parametrize("rootfs", ["trixie"], indirect=True)
def test_nothing_is_lost_by_the_newer_one(rootfs: Path, deb: Path, audited: Cloud) -> None:
    """On Debian 13, whose journal-remote would delete by its own bounds."""
    an_outage_and_a_full_disk(rootfs, deb, audited)
