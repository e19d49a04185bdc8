"""What a site has in the cloud before its first VPS: a domain with its manager, two projects, an account."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

from deployer.cloud import cloud_apply, cloud_file
from deployer.cloud.accounts import SECRETS_PROJECT
from deployer.cloud.identity import Identity

if TYPE_CHECKING:
    from lab.testbed.cloud import Cloud

ROOT = Path(__file__).parents[2]
DOMAIN = "recruitiq-vps"
MANAGER = "recruitiq-vps-accounts"
RUNTIME = "vps-runtime"
START_S = 30.0


@dataclass(frozen=True)
class Tenant:
    """A site. ``identity`` is the cloud administrator's."""

    cloud: Cloud
    identity: Identity
    domain_id: str
    runtime_id: str
    secrets_id: str
    manager_password: str = field(repr=False)
    key: str = field(default_factory=lambda: secrets.token_hex(32), repr=False)
    """The registrar's."""

    def configuration(self, directory: Path, extra: str = "") -> Path:
        """Write a deployer.toml for the registrar, with its credentials in files beside it."""
        places = self.cloud.testbed.places
        for name, secret in (("registrar-password", self.manager_password), ("registrar-key", self.key)):
            (directory / name).touch(0o600)
            (directory / name).write_text(secret)
        login = ""
        if "pool_file" not in extra:
            login = (
                f'domain = "{DOMAIN}"\nusername = "{MANAGER}"\n'
                f'credential_file = "{directory}/registrar-password"\n'
                f'key_file = "{directory}/registrar-key"\n'
            )
        path = directory / "deployer.toml"
        path.write_text(
            f'[keystone]\nauth_url = "{places.auth_url}"\n'
            + (f'ca_file = "{places.ca_file}"\n' if places.ca_file else "")
            + f'[registrar]\nsocket = "{directory}/registrar.sock"\n{login}{extra}'
        )
        return path


def make(cloud: Cloud) -> Tenant:
    """Make the site as ``cloud apply`` does, by the packaged cloud.toml; it may be there already."""
    identity = Identity(cloud.accounts._session, cloud.auth_url)  # noqa: SLF001  # the administrator's
    wanted = cloud_file.load(ROOT / "packaging/cloud.toml")
    cloud_apply.apply(identity, wanted)
    assert wanted.registrar is not None
    manager = cloud_apply.new_password(identity, wanted.registrar)
    domain = identity.find("domains", DOMAIN)
    of_secrets = identity.find("projects", SECRETS_PROJECT, "default")
    assert domain is not None
    assert of_secrets is not None
    runtime = identity.find("projects", RUNTIME, domain.id)
    assert runtime is not None
    return Tenant(cloud, identity, domain.id, runtime.id, of_secrets.id, manager.secret)


class Listener:
    """A program of a process a request, as one that listens; ``socket`` is where. A context manager."""

    def __init__(self, configuration: Path, name: str) -> None:
        """``name``: of its package below ``deployer``, and of its socket beside the configuration."""
        self._configuration = configuration
        self._name = name
        self.socket = configuration.parent / f"{name}.sock"
        self.log = configuration.parent / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", f"deployer.{self._name}", "--listen"]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--config", str(self._configuration)],
                cwd=ROOT,
                env=os.environ.copy(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        end = time.monotonic() + START_S
        while not self._listens():
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, f"the {self._name} does not listen"
            time.sleep(0.02)
        return self

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as connection:
            return connection.connect_ex(str(self.socket)) == 0

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(START_S)


class Registrar(Listener):
    """The registrar."""

    def __init__(self, configuration: Path) -> None:
        super().__init__(configuration, "registrar")


class Hook(Listener):
    """Runs commands: what :meth:`allow` has listed, and nothing else."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "deployer.toml", "hook")
        self.allow()

    def allow(self, *paths: Path, timeout: float = 30.0) -> None:
        """Say in deployer.toml what may be run, from now on, and for how long."""
        text = f'[worker]\nsocket = "{self._configuration.parent}/worker.sock"\n'
        for path in paths:
            text += f'[[command]]\npath = "{path}"\ntimeout = "{timeout * 1000:.0f}ms"\n'
        self._configuration.write_text(text)
