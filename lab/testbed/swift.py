"""A real Swift on loopback for one testbed: proxy, account, container and object server, one copy of each.

`with Swift(cloud) as swift: swift.url(project_id)`. Its proxy asks the testbed's Keystone for every token
(keystonemiddleware) and knows temporary URLs and versioned containers. Runs in the environment
build/swift-venv (scripts/setup swift); the directory must be on a file system with extended attributes, as
ext4, overlay and tmpfs have them.
"""

from __future__ import annotations

import contextlib
import getpass
import http.client
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from lab.testbed.testbed import REGION, TestbedError

if TYPE_CHECKING:
    from lab.testbed.cloud import Cloud

VENV = Path(__file__).resolve().parents[2] / "build/swift-venv"
START_S = 60.0
COMMON = """\
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
swift_dir = {directory}
user = {user}
workers = 0
devices = {directory}/devices
mount_check = false
disable_fallocate = true
log_level = ERROR
"""
SERVER = """\
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
"""
# operator_roles: who may write; the deployment service's user is a member of its project, on no cloud admin
PROXY = """\
[pipeline:main]
pipeline = catch_errors gatekeeper tempurl authtoken keystoneauth copy versioned_writes symlink proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:tempurl]
use = egg:swift#tempurl
[filter:copy]
use = egg:swift#copy
[filter:versioned_writes]
use = egg:swift#versioned_writes
allow_object_versioning = true
[filter:symlink]
use = egg:swift#symlink
[filter:keystoneauth]
use = egg:swift#keystoneauth
operator_roles = admin, member
[filter:authtoken]
paste.filter_factory = keystonemiddleware.auth_token:filter_factory
www_authenticate_uri = {auth_url}
auth_type = password
auth_url = {auth_url}
username = swift
password = {password}
project_name = service
user_domain_id = default
project_domain_id = default
service_type = object-store
delay_auth_decision = true
token_cache_time = -1
"""


class Swift:
    """The four servers. Owns their directory, ports and processes."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._resources = contextlib.ExitStack()
        self._base = ""

    def url(self, project_id: str) -> str:
        """Return the address of a project's account."""
        return f"{self._base}/v1/AUTH_{project_id}"

    def __enter__(self) -> Self:
        if not VENV.exists():
            raise TestbedError(f"{VENV} is missing: run scripts/setup first")
        with contextlib.ExitStack() as undo:
            undo.callback(self._resources.close)
            self._start()
            undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._resources.close()

    def _start(self) -> None:
        directory = Path(tempfile.mkdtemp(prefix="swift-"))
        self._resources.callback(shutil.rmtree, directory, ignore_errors=True)
        (directory / "devices/sda").mkdir(parents=True)
        salt = f"swift_hash_path_suffix = {secrets.token_hex(8)}\n"
        (directory / "swift.conf").write_text(
            f"[swift-hash]\n{salt}[storage-policy:0]\nname = only\ndefault = yes\n"
        )
        ports = {kind: self._reserve() for kind in ("object", "container", "account", "proxy")}
        self._base = f"http://127.0.0.1:{ports['proxy']}"
        service = self._register()
        rings = [self._ring(directory, kind, port) for kind, port in ports.items() if kind != "proxy"]
        for ring in rings:
            if ring.wait():
                raise TestbedError("a ring of Swift could not be built")
        for kind, port in ports.items():
            common = COMMON.format(port=port, directory=directory, user=getpass.getuser())
            parts = SERVER.format(kind=kind) if kind != "proxy" else service
            with os.fdopen(os.open(directory / f"{kind}.conf", os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
                file.write(common + parts)
            self._serve(directory, kind)
        for kind, port in ports.items():
            _wait(port, directory / f"{kind}.log")

    def _register(self) -> str:
        """Make Swift's own account and its entry in the catalog; return the proxy's configuration."""
        password = secrets.token_urlsafe(24)
        auth_url = self._cloud.auth_url
        accounts = self._cloud.accounts
        made = accounts.service("swift", "object-store", self.url("$(project_id)s"), REGION, password)
        # else the next one would stand in the catalog after one that is gone
        self._resources.callback(accounts.end_service, made)
        return PROXY.format(auth_url=auth_url, password=password)

    def _ring(self, directory: Path, kind: str, port: int) -> subprocess.Popen[bytes]:
        """Begin to build a ring with one device in it."""
        builder = f"{VENV}/bin/python -W ignore {VENV}/bin/swift-ring-builder {directory}/{kind}.builder"
        device = f"r1z1-127.0.0.1:{port}/sda"
        steps = f"{builder} create 1 1 0 && {builder} add {device} 1 && {builder} rebalance"
        return subprocess.Popen(["sh", "-c", steps], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def _serve(self, directory: Path, kind: str) -> None:
        with (directory / f"{kind}.log").open("wb") as log:
            process = subprocess.Popen(
                [
                    *(VENV / "bin/python", "-W", "ignore", VENV / f"bin/swift-{kind}-server"),
                    *(directory / f"{kind}.conf", "--verbose"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"PATH": os.environ["PATH"], "HOME": str(directory)},
                start_new_session=True,
            )
        self._resources.callback(process.wait)
        self._resources.callback(process.kill)

    def _reserve(self) -> int:
        """Return a port that nobody else is given meanwhile; see Testbed."""
        reservation = self._resources.enter_context(socket.socket())
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reservation.bind(("127.0.0.1", 0))
        return int(reservation.getsockname()[1])


def _wait(port: int, log: Path) -> None:
    end = time.monotonic() + START_S
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/")
            connection.getresponse().read()
        except OSError:
            if time.monotonic() > end:
                raise TestbedError(f"Swift was not ready; its log ends:\n{log.read_text()[-2000:]}") from None
            time.sleep(0.05)
        else:
            return
        finally:
            connection.close()
