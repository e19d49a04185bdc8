"""A new VPS as a cloud boots it: cloud-init, the package, and the user data that the deployer made for it.

The root file systems are those of scripts/rootfs-cloud. Its data source is NoCloud, a folder that is mounted
as a cloud would attach a disk: what is on the machine's own disk afterwards, the machine has put there.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from lab.testbed.machine import layer_of
from lab.testbed.site import Site

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lab.testbed.cloud import Cloud

HAS_IT: Final = "the application has its secret"
JOIN: Final = "vps-secrets-join.service"
APPLICATION: Final = "recruitiq"
"""The user of the application."""
BLUEPRINT: Final = """
[JWT_SECRET]
kind = "random"
rotate = "30d"
[SESSION_SECRET]
kind = "random"
rotate = "30d"
[ENCRYPTION_KEY]
kind = "random"
rotate = "never"
"""
_SOCKET: Final = "/run/vps-secrets/app.sock"
_READ: Final = (
    f"curl --silent --fail --output /dev/null --unix-socket {_SOCKET} http://x/v1/secrets/JWT_SECRET"
)
_FILES: Final = {
    "/etc/systemd/system/application.service": (
        f"[Service]\nUser={APPLICATION}\n"
        f"ExecStart=/bin/bash -c 'until {_READ}; do sleep 0.05; done; echo {HAS_IT}'\n"
        "[Install]\nWantedBy=multi-user.target\n"
    ),
    "/etc/systemd/journald.conf.d/disk.conf": "[Journal]\nStorage=persistent\n",
    "/etc/cloud/cloud.cfg.d/90-no-locales.cfg": "locale: false\n",  # scripts/rootfs leaves them out
}
CLAIM_S: Final = 60.0
AGAIN_S: Final = 0.2


@contextlib.contextmanager
def image(rootfs: Path, deb: Path) -> Iterator[Path]:
    """Install the package and an application on a root file system; yield the layer that a VPS boots with."""
    script = f"useradd --create-home {APPLICATION}; apt-get install --yes /debs/{deb.name}"
    for name, text in _FILES.items():
        script += f"\nmkdir -p $(dirname {name}); cat >{name} <<'END'\n{text}END"
    script += "\nsystemctl enable application.service"
    with layer_of(rootfs, script, f"--bind-ro={deb.parent}:/debs") as layer:
        yield layer


def site(cloud: Cloud, folder: Path) -> Site:
    """Return a deployer's site for VPSs that join: values are sealed, and all its times are those shipped."""
    return Site(cloud, folder, registrar=False, sealing="required")


@dataclass(frozen=True, slots=True)
class Claimed:
    """What an operator's claim has put into the file ``user_data``; ``members`` are those of the claim."""

    user_data: Path
    members: dict[str, str] = field(repr=False)

    @property
    def vps_id(self) -> str:
        """Whose it is."""
        return self.members["vps"]

    @property
    def user_id(self) -> str:
        """Its user in Keystone."""
        return self.members["userId"]

    @property
    def auth_url(self) -> str:
        """Keystone's address."""
        return self.members["authUrl"]

    @property
    def one_time_password(self) -> str:
        """What is to be worthless soon."""
        return self.members["oneTimePassword"]


def wished(at: Site, vps_id: str) -> None:
    """Wish a VPS, as a portal does."""
    done = at.command("vps", "add", vps_id, "--blueprint", "backend", "--no-wait")
    assert done.returncode == 0, done.stderr


def claim_in_file(at: Site, vps_id: str, *more: str, again: bool = False) -> Path:
    """Claim a VPS as soon as its container is there; return the file that the command has written."""
    output = at.folder / f"{vps_id}-{os.urandom(4).hex()}"
    command = ["vps", "claim", vps_id, "--output", str(output), *(more or ["--json"])]
    command += ["--again"] if again else []
    end = time.monotonic() + CLAIM_S
    while (done := at.command(*command)).returncode:
        assert time.monotonic() < end, done.stderr
        time.sleep(AGAIN_S)
    return output


def claimed(at: Site, vps_id: str, *, again: bool = False) -> Claimed:
    """Wish a VPS, unless it is there, and claim it, as an operator does."""
    if not again:
        wished(at, vps_id)
    output = claim_in_file(at, vps_id, "--user", APPLICATION, again=again)
    (file,) = json.loads(output.read_text().partition("\n")[2])["write_files"]
    return Claimed(output, json.loads(file["content"]))


def attached(user_data: Path) -> str:
    """Return the option of nspawn that attaches user data as a cloud does, of an instance of its own."""
    folder = user_data.with_suffix(".seed")
    folder.mkdir()
    shutil.copy(user_data, folder / "user-data")
    (folder / "meta-data").write_text(f"instance-id: {user_data.name}\n")
    return f"--bind-ro={folder}:/var/lib/cloud/seed/nocloud"
