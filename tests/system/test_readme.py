"""The README's first page, word for word, as a new user would: on a machine without anything of ours."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from tests.system.installed import USER, Installed

if TYPE_CHECKING:
    from lab.testbed.cloud import Cloud

ROOT = Path(__file__).parents[2]
HOME = "/root/trying"
SUDO = """sudo() { if [ "$1" = -u ]; then runuser --user "$2" -- "${@:3}"; else "$@"; fi }
set -e
"""
"""The machine has no sudo: root becomes who is named."""


def _commands() -> list[str]:
    """Return the commands of the section, one for each, continued lines joined."""
    section = (ROOT / "README.md").read_text().partition("\n## On a VPS\n")[2].partition("\n## ")[0]
    lines = re.findall(r"^    (.*)$", section, re.MULTILINE)
    return "\n".join(lines).replace("\\\n", "").splitlines()


def test_every_command_of_the_first_page(rootfs: Path, deb: Path, cloud: Cloud) -> None:
    """Install, set up, read, rotate, read again."""
    commands = _commands()
    assert len(commands) >= 7
    values = {"JWT_SECRET": b"canary-readme-one", "DATABASE_URL": b"canary-readme-two"}
    vps = cloud.vps(f"vps-readme-{rootfs.name}", values)
    account = cloud.runtime[vps.vps_id]
    places = {
        "VPS_ID": vps.vps_id,
        "CONTAINER": vps.container_ref,
        "KEYSTONE": cloud.auth_url,
        "CREDENTIAL_ID": account.credential.id,
        "USER_ID": account.user.id,
        "TOKEN": cloud.deployment_token(),
    }
    exports = "".join(f"export {key}='{value}'\n" for key, value in places.items())
    said = {}
    with Installed(rootfs, f"--bind-ro={deb.parent}:/debs") as machine:
        machine.run(f"useradd --create-home {USER}; mkdir --parents {HOME}/build/deb")
        machine.run(f"cp /debs/{deb.name} {HOME}/build/deb")
        machine.write(f"{HOME}/rotate.sh", (ROOT / "docs/examples/rotate.sh").read_text(), 0o755)
        machine.write(f"{HOME}/credential", account.credential.secret + "\n", 0o600)
        for number, command in enumerate(commands):
            said[number, command] = machine.run(f"{SUDO}{exports}cd {HOME}\n{command}").out
    read = [out for (_, command), out in said.items() if command.endswith("/v1/secrets/JWT_SECRET")]
    digests = [hashlib.sha256(out.encode()).hexdigest() for out in read]
    assert digests[0] == hashlib.sha256(values["JWT_SECRET"]).hexdigest()
    assert len(read[1].strip()) == 64, "the rotated value, 48 random bytes in base64"
    assert digests[0] != digests[1]
    told = "\n".join(out for (_, command), out in said.items() if "curl" not in command)
    for words in ("first reading  2 secrets: DATABASE_URL, JWT_SECRET", f"{vps.vps_id}: ready"):
        assert words in told
    for value in (*read, *map(bytes.decode, values.values())):
        assert (value.strip() in told) is False
