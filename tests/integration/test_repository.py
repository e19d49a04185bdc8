"""scripts/repository: a real apt, with folders of its own, reads a channel over HTTP, or refuses it."""

from __future__ import annotations

import contextlib
import http.server
import os
import subprocess
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).parents[2]
NAME: Final = "vps-secrets-tried"


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, *_: object) -> None:
        """Nothing."""


class Site:
    """A repository, its keys, and the machine that reads it."""

    def __init__(self, place: Path, url: str) -> None:
        self.place, self.url = place, url
        self.repository = place / "repository"
        self.keys = {name: self._key(name) for name in ("ours", "another")}

    def _key(self, name: str) -> str:
        home = self.place / name
        home.mkdir(mode=0o700)
        make = [
            "gpg",
            "--batch",
            "--passphrase",
            "",
            "--quick-generate-key",
            f"{name}@example.org",
            "ed25519",
        ]
        subprocess.run([*make, "sign", "never"], env=self._gpg(name), check=True, capture_output=True)
        listed = subprocess.run(
            ["gpg", "--list-keys", "--with-colons"], env=self._gpg(name), check=True, capture_output=True
        ).stdout.decode()
        return next(line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr"))

    def _gpg(self, name: str) -> dict[str, str]:
        return {"PATH": os.defpath, "GNUPGHOME": str(self.place / name), "LC_ALL": "C.UTF-8"}

    def make(self, *words: str, key: str = "ours") -> subprocess.CompletedProcess[str]:
        """Run the script."""
        return subprocess.run(
            [ROOT / "scripts/repository", self.repository, self.keys[key], *words],
            env=self._gpg(key),
            capture_output=True,
            text=True,
            check=False,
        )

    def package(self, version: str, content: str = "") -> str:
        """Build a small package."""
        tree = self.place / f"tree-{version}{content}"
        (tree / "DEBIAN").mkdir(parents=True)
        (tree / "DEBIAN/control").write_text(
            f"Package: {NAME}\nVersion: {version}\nArchitecture: all\nMaintainer: a <a@example.org>\n"
            "Description: tried\n"
        )
        (tree / "file").write_text(content)
        file = self.place / f"{version}{content}.deb"
        subprocess.run(["dpkg-deb", "--build", "-Znone", tree, file], check=True, capture_output=True)
        return str(file)

    def apt(self, *words: str, channel: str = "wave0") -> subprocess.CompletedProcess[str]:
        """Run apt-get with nothing of this machine's: its sources, state and cache are its own."""
        machine = self.place / f"machine-{channel}"
        for folder in ("lists/partial", "archives/partial", "etc", "downloads"):
            (machine / folder).mkdir(parents=True, exist_ok=True)
        (machine / "status").touch()
        (machine / "etc/vps-secrets.sources").write_text(
            f"Types: deb\nURIs: {self.url}\nSuites: {channel}\nComponents: main\n"
            f"Architectures: amd64\nSigned-By: {self.repository / 'trusted.asc'}\n"
        )
        settings = {
            "Dir::State::lists": machine / "lists",
            "Dir::State::status": machine / "status",
            "Dir::Cache": machine,
            "Dir::Etc::sourcelist": machine / "etc/vps-secrets.sources",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "APT::Architecture": "amd64",
            "APT::Sandbox::User": "root",
            "APT::Update::Error-Mode": "any",
        }
        options = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
        return subprocess.run(
            ["apt-get", *options, *words],
            cwd=machine / "downloads",
            env={"PATH": os.defpath + ":/usr/sbin:/sbin", "LC_ALL": "C.UTF-8"},
            capture_output=True,
            text=True,
            check=False,
        )

    def offered(self, channel: str = "wave0") -> list[str]:
        """Return the versions that a channel has, as apt sees them after an update."""
        updated = self.apt("update", channel=channel)
        assert updated.returncode == 0, updated.stderr
        return [
            version
            for version in ("1.0", "1.1")
            if self.apt("download", f"{NAME}={version}", channel=channel).returncode == 0
        ]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A repository with one version in its first channel."""
    folder = tmp_path / "repository"
    folder.mkdir()
    with contextlib.ExitStack() as stack:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        stack.callback(thread.join)
        stack.callback(server.server_close)
        stack.callback(server.shutdown)
        made = Site(tmp_path, f"http://127.0.0.1:{server.server_port}")
        done = made.make("add", "wave0", made.package("1.0"))
        assert done.returncode == 0, done.stderr
        (folder / "trusted.asc").write_bytes((folder / "key.asc").read_bytes())
        yield made


def test_waves_and_back(site: Site) -> None:
    """A version comes to the first channel, then to the next; both stay; one is taken back."""
    assert site.make("promote", "wave0", "wave1").returncode == 0
    assert site.make("add", "wave0", site.package("1.1")).returncode == 0
    assert site.offered("wave0") == ["1.0", "1.1"]
    assert site.offered("wave1") == ["1.0"], "the next wave waits"
    assert site.make("promote", "wave0", "wave1").returncode == 0
    assert site.offered("wave1") == ["1.0", "1.1"]
    assert site.make("withdraw", "wave0", "1.1").returncode == 0
    assert site.offered("wave0") == ["1.0"]


def test_what_is_signed_by_another_key_is_refused(site: Site) -> None:
    """By apt itself, which goes on with what it had; nor does a changed index or package pass."""
    assert site.offered() == ["1.0"]
    assert site.make("sign", key="another").returncode == 0
    refused = site.apt("update")
    assert refused.returncode != 0
    assert "NO_PUBKEY" in refused.stderr or "not signed" in refused.stderr
    assert site.make("sign").returncode == 0
    assert site.apt("update").returncode == 0
    (package,) = (site.repository / "pool").glob("*.deb")
    package.write_bytes(package.read_bytes() + b"\n")
    (site.place / "machine-wave0/downloads" / package.name).unlink()
    changed = site.apt("download", f"{NAME}=1.0")
    assert changed.returncode != 0
    assert "unexpected size" in changed.stderr or "Hash Sum" in changed.stderr


def test_a_version_is_never_another_one(site: Site) -> None:
    """The same version with other bytes, a channel with a strange name, a key that is not there: refused."""
    again = site.make("add", "wave0", site.package("1.0", "other"))
    assert again.returncode == 1
    assert "give the new one another version" in again.stderr
    assert site.make("promote", "wave0", "../wave").returncode == 1
    assert site.make("withdraw", "wave0", "7").returncode == 1
    site.keys["ours"] = "0" * 40
    assert "gpg has no secret key" in site.make("sign").stderr
