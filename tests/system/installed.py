"""A machine with the package installed and, after :func:`set_up`, a VPS of its own in a real cloud."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.testbed.machine import Machine, layer_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deployer.cloud.secrets import Vps
    from lab.testbed.cloud import Cloud
    from lab.testbed.machine import Done
    from lab.testbed.tenant import Tenant

AGENT = "vps-secrets-agent.service"
USER = "recruitiq"
VALUES = {"DATABASE_URL": b"canary-8c1d2f-database", "JWT_SECRET": b"canary-55ae01-jwt"}
NEWER = "9.9.9"
"""The version of the package that another one is upgraded to."""
ROOT = Path(__file__).parents[2]
APP = "curl --silent --show-error --unix-socket /run/vps-secrets/app.sock"


class Installed(Machine):
    """A machine with the package, and what tests ask of it."""

    vps: Vps
    cloud: Cloud
    site: Tenant
    """Where a deployer that is set up makes its users."""

    def digest(self, name: str, user: str = USER) -> str:
        """Return SHA-256 of what the application reads, made inside."""
        done = self.run(
            f"set -o pipefail; {APP} --fail http://x/v1/secrets/{name} | sha256sum", user=user, check=False
        )
        return "" if done.code else done.out.split()[0]

    def reads(self, name: str, value: bytes) -> bool:
        """Return whether the application reads this value."""
        return self.digest(name) == hashlib.sha256(value).hexdigest()

    def status(self) -> dict[str, Any]:
        """Return the status document."""
        content: dict[str, Any] = json.loads(self.run("vps-secrets status --json", check=False).out)
        return content

    def refresh(self) -> None:
        """Have Barbican read now."""
        self.run("vps-secrets refresh")

    def kill(self) -> None:
        """Kill the agent as the kernel would."""
        self.run(f"kill -KILL {self.pid()}")

    def setup_command(self, *options: str) -> str:
        """Return ``vps-secrets setup`` with what it needs; ``options`` come last and win."""
        account = self.cloud.runtime[self.vps.vps_id]
        words = [
            *("--vps-id", self.vps.vps_id, "--container", self.vps.container_ref),
            *("--auth-url", self.cloud.auth_url, "--application-credential-id", account.credential.id),
            *("--user", USER, *options),
        ]
        return f"vps-secrets setup {' '.join(words)}"

    def setup(self, *options: str, given: str | None = None, check: bool = True) -> Done:
        """Run it, with the credential on standard input."""
        secret = self.cloud.runtime[self.vps.vps_id].credential.secret if given is None else given
        return self.run(self.setup_command(*options), given=secret, check=check)


def copied_tree(directory: Path) -> None:
    """Copy what scripts/deb builds from, and itself."""
    for name in (
        "LICENSE",
        "agent",
        "common",
        "deployer",
        "clients",
        "docs",
        "packaging",
        "scripts/deb",
        "systemd",
    ):
        source, target = ROOT / name, directory / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, target)


@contextlib.contextmanager
def booted(rootfs: Path, deb: Path) -> Iterator[Installed]:
    """Boot, and install the package as a user would."""
    with Installed(rootfs, f"--bind-ro={deb.parent}:/debs") as machine:
        machine.run(f"useradd --create-home {USER}; apt-get install --yes /debs/{deb.name}")
        yield machine


@contextlib.contextmanager
def installed_once(rootfs: Path, deb: Path) -> Iterator[Path]:
    """Install the package as a user would; return what that changed, less what is one machine's own."""
    script = f"useradd --create-home {USER}; apt-get install --yes /debs/{deb.name}"
    with layer_of(rootfs, script, f"--bind-ro={deb.parent}:/debs") as layer:
        yield layer


@contextlib.contextmanager
def booted_again(rootfs: Path, layer: Path, deb: Path) -> Iterator[Installed]:
    """Boot what has the package already: the layer is of :func:`installed_once`."""
    with Installed(rootfs, f"--bind-ro={deb.parent}:/debs", layer=layer) as machine:
        yield machine


def set_up(machine: Installed, cloud: Cloud, vps_id: str) -> None:
    """Make a VPS in the cloud and the machine its agent."""
    machine.cloud = cloud
    machine.vps = cloud.vps(vps_id, VALUES)
    machine.setup()
