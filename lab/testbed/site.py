"""A whole deployer on this machine: its site in the cloud, its configuration, its processes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from deployer.database import vpses
from deployer.database.engine import open_database
from deployer.database.migrating import migrate
from lab.testbed import tenant

if TYPE_CHECKING:
    from deployer.database.engine import Database
    from lab.testbed.cloud import Cloud

ROOT = Path(__file__).parents[2]
START_S = 60.0


class Site:
    """Owns the folder's deployer.toml and database, and the processes that were started. A context manager.

    ``extra`` is TOML of further tables, ``worker`` further keys of its table. ``barbican_url`` is another way
    to Barbican: a proxy that disturbs; ``auth_url`` one to Keystone. ``registrar``: whether to start one;
    ``serve`` starts its own.
    """

    def __init__(
        self,
        cloud: Cloud,
        folder: Path,
        extra: str = "",
        *,
        barbican_url: str = "",
        auth_url: str = "",
        worker: str = "",
        registrar: bool = True,
        sealing: str = "off",
    ) -> None:
        self._registrar = registrar
        self.cloud = cloud
        self.folder = folder
        self.tenant = tenant.make(cloud)
        secret = folder / "worker-credential"
        secret.touch(0o600)
        secret.write_text(cloud.deployer.secret)
        override = f'endpoint_override = "{barbican_url}"\n' if barbican_url else ""
        self.path = self.tenant.configuration(folder)
        text = self.path.read_text().replace("[keystone]\n", f"[keystone]\n{override}")
        text = text.replace(cloud.auth_url, auth_url or cloud.auth_url)
        self.path.write_text(
            f'[database]\nurl = "sqlite:///{folder}/deployer.db"\n'
            f'[blueprints]\nfolder = "{folder}/blueprints"\n'
            f'[sealing]\ndefault = "{sealing}"\n'
            f'[api]\nsocket = "{folder}/api.sock"\n[[role]]\nrole = "operator"\nuser = "root"\n'
            f'[worker]\nsocket = "{folder}/worker.sock"\n'
            f'application_credential_id = "{cloud.deployer.id}"\ncredential_file = "{secret}"\n{worker}'
            f"{text}{extra}"
        )
        (folder / "blueprints").mkdir(exist_ok=True)
        self.database: Database = open_database(f"sqlite:///{folder}/deployer.db")
        migrate(self.database)
        self.serving: subprocess.Popen[bytes] | None = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        if self._registrar:
            self._stack.enter_context(tenant.Registrar(self.path))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self.database.close()

    def command(self, *words: str, given: str = "") -> subprocess.CompletedProcess[str]:
        """Run ``vps-secrets-deploy`` at this site."""
        return subprocess.run(
            [sys.executable, "-m", "deployer.cli", *words],
            cwd=ROOT,
            env=os.environ | {"VPS_SECRETS_DEPLOY_SOCKET": str(self.folder / "api.sock")},
            input=given,
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )

    def serve(self, blueprint: str) -> None:
        """Apply a blueprint, ``backend``, and start all three programs."""
        (self.folder / "blueprints" / "backend.toml").write_text(blueprint)
        applied = self.command("blueprint", "apply", "--config", str(self.path))
        assert applied.returncode == 0, applied.stderr
        self.serving = self.start("deployer.cli", self.folder / "api.sock", "serve")

    def away(self) -> None:
        """End what :meth:`serve` has started."""
        assert self.serving is not None
        _end(self.serving)

    def wake(self, vps_id: str) -> None:
        """Have a VPS looked at at the next sweep."""
        with self.database.write() as c:
            vpses.wake(c, vps_id, vpses.ORDERED)

    def logs(self) -> str:
        """Return what the processes have written."""
        return "".join(path.read_text() for path in sorted(self.folder.glob("*.log")))

    def start(self, module: str, ready: Path | None = None, *words: str) -> subprocess.Popen[bytes]:
        """Start ``deployer.worker`` or another module as a process; ``ready`` is a socket that it makes."""
        log = (self.folder / f"{module}.log").open("ab")
        if ready is not None:
            ready.unlink(missing_ok=True)  # of one that was killed
        process = subprocess.Popen(
            [sys.executable, "-m", module, *words, "--config", str(self.path)],
            cwd=ROOT,
            env=os.environ.copy(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        log.close()
        self._stack.callback(_end, process)
        end = time.monotonic() + START_S
        while ready is not None and not ready.exists():
            assert process.poll() is None, (self.folder / f"{module}.log").read_text()
            assert time.monotonic() < end, f"{module} is not ready"
            time.sleep(0.02)
        return process


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
    process.wait(START_S)
