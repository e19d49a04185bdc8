"""The package: installed, set up, upgraded, removed; what an operator is told when something is wrong."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.system.installed import AGENT, APP, ROOT, USER, VALUES, copied_tree, set_up

if TYPE_CHECKING:
    from pathlib import Path

    from lab.testbed.cloud import Cloud
    from tests.system.installed import Installed

PATH_OF = "/etc/vps-secrets-agent"


def test_without_a_configuration_it_waits_and_says_what_to_do(fresh: Installed) -> None:
    """Enabled and started, no loop, whoever asks is told; reload goes on once there is a configuration."""
    fresh.until(lambda: fresh.show(AGENT, "ActiveState") == "active")
    assert fresh.show(AGENT, "UnitFileState") == "enabled"
    assert "vps-secrets setup" in fresh.show(AGENT, "StatusText")
    assert fresh.run("systemctl is-system-running").out.strip() == "running"
    for _ in range(30):
        asked = fresh.run(f"{APP} http://x/v1/secrets/A", check=False)
        assert "not-configured" in asked.out
    told = fresh.run("vps-secrets status", check=False)
    assert told.code == 1
    assert "No such file" in told.err
    assert fresh.show(AGENT, "NRestarts") == "0"
    fresh.write(f"{PATH_OF}/agent.toml", 'vps_id = "x"\nnonsense = 1\n')
    assert fresh.run(f"systemctl reload {AGENT}", check=False).code == 1
    fresh.until_said("agent.toml: nonsense:", "--unit", AGENT)
    fresh.run(f"systemctl restart {AGENT}")
    told = fresh.run("vps-secrets status", check=False)
    assert "container" in told.err
    fresh.run(f"rm {PATH_OF}/agent.toml")


def test_first_boot(bare: Installed, cloud: Cloud, rootfs: Path) -> None:
    """Setup as root without a terminal: what it refuses, what it writes, and the first reading."""
    vps_id = f"vps-first-{rootfs.name}"
    bare.cloud, bare.vps = cloud, cloud.vps(vps_id, VALUES)
    assert bare.run("vps-secrets setup --vps-id x", check=False).code == 2
    assert bare.run("vps-secrets setup", user=USER, check=False).code == 4
    refused = bare.setup(given="", check=False)
    assert (refused.code, "one line with the secret" in refused.err) == (1, True)
    refused = bare.setup("--user", "nobody-here", check=False)
    assert "there is no user nobody-here" in refused.err
    refused = bare.setup("--auth-url", "nonsense", check=False)
    assert "keystone.auth_url" in refused.err
    assert bare.run(f"ls {PATH_OF}").out == ""
    wrong = bare.setup(given="not-the-secret", check=False)
    assert wrong.code == 1
    assert "Keystone" in wrong.out
    refused = bare.setup(check=False)
    assert "--replace" in refused.err
    done = bare.setup("--replace")
    assert "first reading  2 secrets: DATABASE_URL, JWT_SECRET" in done.out
    for name, value in VALUES.items():
        assert bare.reads(name, value)
    secret = cloud.runtime[vps_id].credential.secret
    assert bare.run(f"grep --recursive --fixed-strings '{secret}' /etc /run /var", check=False).code == 1
    assert bare.run(f"stat --format %a {PATH_OF}/keystone-credential.cred").out.strip() == "600"
    assert bare.run(f"{APP} http://x/v1/secrets/JWT_SECRET", user="nobody", check=False).code == 7
    assert "not-granted" in bare.run(f"{APP} http://x/v1/secrets/JWT_SECRET").out


def test_a_credential_of_another_machine_is_told(own: Installed) -> None:
    """An image that was cloned, or a file that was damaged: fetch does not start, and the way is shown."""
    own.run(f"systemctl stop {AGENT}; rm /var/lib/systemd/credential.secret")
    own.run(
        "echo other | systemd-creds encrypt --with-key=host --name=other - /run/other; systemctl start "
        + AGENT
    )
    status = own.status()
    assert status["state"] == "starting"
    assert status["failure"]["step"] in {"fetch process", "credential"}
    assert "vps-secrets-fetch" in own.messages("--unit", AGENT)
    assert "CREDENTIALS" in own.messages()
    assert own.setup("--replace").code == 0
    assert own.reads("JWT_SECRET", VALUES["JWT_SECRET"])


def test_upgrade_removal_and_purge(bare: Installed, cloud: Cloud, deb: Path, rootfs: Path) -> None:
    """The configuration outlives a removal; a purge leaves the system users and nothing else."""
    set_up(bare, cloud, f"vps-purge-{rootfs.name}")
    generation = bare.status()["generation"]
    bare.run(f"apt-get install --yes --reinstall /debs/{deb.name}")
    assert bare.status()["generation"] == generation
    bare.run("apt-get remove --yes vps-secrets-agent")
    assert bare.run(f"ls {PATH_OF}").out.split() == ["agent.toml", "keystone-credential.cred"]
    assert bare.run("ls /run/vps-secrets/*.sock", check=False).out == ""
    bare.run("apt-get purge --yes vps-secrets-agent")
    left = bare.run("find / -xdev -name '*vps-secrets*' -not -path '/proc/*' -not -path '/debs*'").out.split()
    left = [path for path in left if not path.startswith(("/var/lib/dpkg", "/var/log", "/var/cache"))]
    assert left == []
    assert bare.run("systemctl --failed --no-legend").out == ""


EXPOSURE = {
    "vps-secrets-agent.service": 9,
    "vps-secrets-fetch@1.service": 12,
    "vps-secrets-rotated@1.service": 12,
    "vps-secrets-renew.service": 20,
    "vps-secrets-metrics@1.service": 9,
    "vps-secrets-metrics-file.service": 9,
}


@pytest.mark.parametrize("unit", EXPOSURE)
def test_exposure(serving: Installed, unit: str) -> None:
    """Systemd's own score, times ten: serve below 1.0, the others at most 1.2."""
    serving.run(f"systemd-analyze security --threshold={EXPOSURE[unit]} --no-pager {unit}")


@pytest.mark.parametrize("name", ["vps-secrets-agent", "vps-secrets-deployer"])
def test_the_documents_are_in_the_package(deb: Path, deployer_deb: Path, name: str, tmp_path: Path) -> None:
    """With their pictures and examples: whatever they link to is there, under that name."""
    package = next(path for path in (deb, deployer_deb) if path.name.startswith(name))
    subprocess.run(["dpkg-deb", "--extract", str(package), str(tmp_path)], check=True)
    place = tmp_path / "usr/share/doc" / name
    documents = sorted(place.rglob("*.md"))
    assert {path.name for path in (ROOT / "docs").glob("*.md")} <= {path.name for path in documents}
    links = [
        (document, target)
        for document in documents
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text())
        if "://" not in target
    ]
    assert len(links) > 20
    missing = [
        f"{document.name}: {target}" for document, target in links if not (document.parent / target).exists()
    ]
    assert missing == []
    assert all((document.parent / target).resolve().is_relative_to(place) for document, target in links)


def test_versions_that_disagree_fail_the_build(tmp_path: Path) -> None:
    """The module says one, the changelog another."""
    copied_tree(tmp_path)
    module = tmp_path / "agent/__init__.py"
    module.write_text(module.read_text().replace('__version__ = "', '__version__ = "9'))
    done = subprocess.run(["scripts/deb"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "make them the same" in done.stderr
    assert not (tmp_path / "build").exists()
