"""A booted Debian and scripts/repository over HTTP: install, upgrade, back."""

from __future__ import annotations

import contextlib
import http.server
import os
import re
import subprocess
import threading
from functools import partial
from typing import TYPE_CHECKING, Final

import pytest

from agent import __version__
from tests.system.installed import ROOT, USER, VALUES, Installed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lab.testbed.cloud import Cloud

AFTER: Final = f"{__version__}+after"
PACKAGE: Final = "vps-secrets-agent"
SOURCE: Final = "/etc/apt/sources.list.d/vps-secrets.sources"
UPDATE: Final = (
    "apt-get update -o APT::Update::Error-Mode=any -o Dir::Etc::sourceparts=- "
    f"-o Dir::Etc::sourcelist={SOURCE}"
)


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, *_: object) -> None:
        """Nothing."""


class Repository:
    """Two versions of the package, a key, and a web server on loopback, which the machine shares."""

    def __init__(self, place: Path, deb: Path) -> None:
        self.place, self.deb = place, deb
        self.folder = place / "repository"
        self.folder.mkdir()
        self.after = self._repacked()
        for name in ("ours", "another"):
            (place / name).mkdir(mode=0o700)
            self._gpg(name, "--quick-generate-key", f"{name}@example.org", "ed25519", "sign", "never")

    def _gpg(self, name: str, *words: str) -> None:
        command = ["gpg", "--batch", "--passphrase", "", *words]
        subprocess.run(command, env=self._environment(name), check=True, capture_output=True)

    def _environment(self, name: str) -> dict[str, str]:
        return {"PATH": os.defpath, "GNUPGHOME": str(self.place / name), "LC_ALL": "C.UTF-8"}

    def _repacked(self) -> Path:
        """Make the same package with a later version."""
        tree, file = self.place / "tree", self.place / "after.deb"
        subprocess.run(["dpkg-deb", "--raw-extract", self.deb, tree], check=True)
        control = tree / "DEBIAN/control"
        control.write_text(re.sub(r"(?m)^Version: .*$", f"Version: {AFTER}", control.read_text()))
        subprocess.run(
            ["dpkg-deb", "--root-owner-group", "--build", "-Zgzip", "-z1", tree, file],
            check=True,
            capture_output=True,
        )
        return file

    def make(self, *words: str, key: str = "ours") -> None:
        """Run the script."""
        command = [str(ROOT / "scripts/repository"), str(self.folder), f"{key}@example.org", *words]
        subprocess.run(command, env=self._environment(key), check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path, deb: Path) -> Iterator[tuple[Repository, str]]:
    """A repository with one version, and its URL."""
    made = Repository(tmp_path, deb)
    made.make("add", "stable", str(deb))
    with contextlib.ExitStack() as stack:
        handler = partial(Quiet, directory=str(made.folder))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        stack.callback(thread.join)
        stack.callback(server.server_close)
        stack.callback(server.shutdown)
        yield made, f"http://127.0.0.1:{server.server_port}"


def version(machine: Installed) -> str:
    """Return the version that is installed."""
    return machine.run(f"dpkg-query --show --showformat '${{Version}}' {PACKAGE}", check=False).out


def test_install_upgrade_and_back(repository: tuple[Repository, str], rootfs: Path, cloud: Cloud) -> None:
    """By hand; what another key has signed is refused. The secrets are served throughout."""
    made, url = repository
    with Installed(rootfs) as machine:
        machine.run(f"useradd --create-home {USER}; mkdir -p /etc/apt/keyrings")
        machine.write("/etc/apt/keyrings/vps-secrets.asc", (made.folder / "key.asc").read_text())
        signed = "Signed-By: /etc/apt/keyrings/vps-secrets.asc"
        machine.write(SOURCE, f"Types: deb\nURIs: {url}\nSuites: stable\nComponents: main\n{signed}\n")
        machine.run(f"{UPDATE} && apt-get install --yes {PACKAGE}")
        assert version(machine) == __version__
        machine.cloud, machine.vps = cloud, cloud.vps(machine.name, VALUES)
        machine.setup()

        made.make("add", "stable", str(made.after), key="another")
        refused = machine.run(UPDATE, check=False)
        assert refused.code != 0
        # gpgv's words, and those of Debian 13's sqv
        assert "NO_PUBKEY" in refused.err or "needed to verify signature" in refused.err
        assert f"Candidate: {__version__}\n" in machine.run(f"apt-cache policy {PACKAGE}").out

        made.make("sign")
        machine.run(f"{UPDATE} && apt-get install --yes {PACKAGE}")
        assert version(machine) == AFTER
        machine.run(f"apt-get install --yes --allow-downgrades {PACKAGE}={__version__}")
        assert version(machine) == __version__
        assert machine.reads("JWT_SECRET", VALUES["JWT_SECRET"])
