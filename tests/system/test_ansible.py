"""packaging/ansible: a real ansible-core over a root file system of Debian 12, by chroot(1), not ssh(1).

It is not booted: what the package does on a booted one is in tests/system/test_repository.py.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Final

import pytest

from agent import __version__
from tests.system.installed import ROOT
from tests.system.test_repository import AFTER, PACKAGE, repository

if TYPE_CHECKING:
    from pathlib import Path

    from tests.system.test_repository import Repository

__all__ = ["repository"]  # a fixture

INSIDE: Final = """set -e
mount -t tmpfs tmpfs {place}
mkdir {place}/upper {place}/work {place}/root
mount -t overlay overlay -o lowerdir={rootfs},upperdir={place}/upper,workdir={place}/work {place}/root
mount -t proc proc {place}/root/proc
printf '#!/bin/sh\\nexit 101\\n' >{place}/root/usr/sbin/policy-rc.d
chmod 755 {place}/root/usr/sbin/policy-rc.d
cd {ansible}
play() {{
  ansible-playbook -i {inventory} -e vps_secrets_key={key} -e vps_secrets_repository={url} "$@" \\
    vps-secrets.yml || return 1
  echo "version: $(chroot {place}/root dpkg-query --show --showformat '${{Version}}' {package})"
}}
play -e vps_secrets_ready=false -e vps_secrets_version={before}
play -e vps_secrets_ready=false -e vps_secrets_version={after}
play -e vps_secrets_ready=false -e vps_secrets_version={after}
play -e vps_secrets_ready=false -e vps_secrets_version={before}
if play -e vps_secrets_wait=1; then exit 3; fi
"""
SSH: Final = """#!/bin/sh
for last; do :; done
exec chroot {place}/root env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 sh -c "$last"
"""


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_the_role_installs_upgrades_and_goes_back(
    repository: tuple[Repository, str], rootfs: Path, tmp_path: Path
) -> None:
    """Twice is once; a VPS that does not serve afterwards ends the run."""
    if rootfs.name != "bookworm":  # Debian 12's ansible-core can't talk to the Python of Debian 13
        return
    assert shutil.which("ansible-playbook"), "apt-get install --no-install-recommends ansible-core"
    made, url = repository
    made.make("add", "stable", str(made.after))
    place, ssh, inventory = tmp_path / "place", tmp_path / "ssh", tmp_path / "inventory"
    place.mkdir()
    ssh.write_text(SSH.format(place=place))
    ssh.chmod(0o755)
    more = "ansible_python_interpreter=/usr/bin/python3 ansible_become=false"  # it is root's already
    inventory.write_text(f"[vps]\nvps-prod-001 ansible_ssh_executable={ssh} {more}\n")
    script = INSIDE.format(
        place=place,
        rootfs=rootfs,
        inventory=inventory,
        ansible=ROOT / "packaging/ansible",
        key=made.folder / "key.asc",
        url=url,
        package=PACKAGE,
        before=__version__,
        after=AFTER,
    )
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "bash", "-c", script],
        env=environ | {"ANSIBLE_SSH_TRANSFER_METHOD": "piped", "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert re.findall(r"version: (\S+)", done.stdout)[:4] == [__version__, AFTER, AFTER, __version__]
    changed = [number != "0" for number in re.findall(r"changed=(\d+)", done.stdout)]
    assert changed[:4] == [True, True, False, True]
    assert re.findall(r"failed=(\d+)", done.stdout) == ["0", "0", "0", "0", "1"]
