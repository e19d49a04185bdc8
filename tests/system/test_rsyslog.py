"""docs/log-host.md, the section for rsyslog, on a booted machine: what it sends, and what an outage costs."""

from __future__ import annotations

import json
import re
import socket
import ssl
import subprocess
import threading
from typing import TYPE_CHECKING, Any

import pytest

from lab.testbed.machine import layer_of
from tests.system.installed import APP, ROOT, USER, booted_again, set_up

if TYPE_CHECKING:
    from pathlib import Path

    from lab.testbed.cloud import Cloud
    from tests.system.installed import Installed

NAME, PORT = "logs.example.org", 6514
KEYS = "/etc/vps-secrets-log"
FIELDS = {"VPS_SECRETS_VERSION", "VPS_SECRETS_UID", "VPS_SECRETS_OUTCOME", "_SYSTEMD_UNIT", "_HOSTNAME"}
WHEN = "_SOURCE_REALTIME_TIMESTAMP"


def section() -> str:
    """Return the configuration of the document."""
    text = (ROOT / "docs/log-host.md").read_text().partition("\n## rsyslog\n")[2]
    found = re.search(r"^```\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


class Receiver:
    """A log host: TLS, a certificate asked for, one JSON object a line."""

    def __init__(self, keys: Path) -> None:
        self.lines: list[dict[str, Any]] = []
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(keys / f"{NAME}.pem", keys / f"{NAME}.key")
        self._context.load_verify_locations(keys / "ca.pem")
        self._context.verify_mode = ssl.CERT_REQUIRED
        self._open: list[socket.socket] = []

    def start(self) -> None:
        """Listen."""
        self._listening = socket.create_server(("127.0.0.1", PORT))
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Be away, as a host without power: nothing is read any more."""
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for each in self._open:
            each.close()
        self._thread.join()

    def _accept(self) -> None:
        while True:
            try:
                plain, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._take, args=(plain,), daemon=True).start()

    def _take(self, plain: socket.socket) -> None:
        try:
            with self._context.wrap_socket(plain, server_side=True) as connection:
                self._open.append(connection)
                with connection.makefile("rb") as lines:
                    for line in lines:
                        self.lines.append(json.loads(line))
        except (OSError, ValueError):
            return

    def reads(self) -> set[str]:
        """Return when the reads were whose records have arrived; after an outage some arrive twice."""
        found = [one for one in self.lines if one.get("VPS_SECRETS_NAME") == "JWT_SECRET"]
        assert all(set(one) >= FIELDS for one in found)
        return {one[WHEN] for one in found}


def make_keys(folder: Path, vps: str) -> None:
    """Make an authority and a certificate for the log host and for the VPS."""
    for name in (NAME, vps):
        authority = ["-CA", "ca.pem", "-CAkey", "ca.key"] if (folder / "ca.pem").exists() else []
        if not authority:
            new = "req -x509 -newkey ed25519 -nodes -days 2 -subj /CN=logs -keyout ca.key -out ca.pem"
            subprocess.run(["openssl", *new.split()], cwd=folder, check=True, capture_output=True)
            authority = ["-CA", "ca.pem", "-CAkey", "ca.key"]
        new = f"req -x509 -newkey ed25519 -nodes -days 2 -subj /CN={name} -keyout {name}.key -out {name}.pem"
        names = ["-addext", f"subjectAltName=DNS:{name}", *authority]
        subprocess.run(["openssl", *new.split(), *names], cwd=folder, check=True, capture_output=True)


def read(vps: Installed, times: int) -> None:
    """Have the application read."""
    vps.run(f"for i in $(seq {times}); do {APP} --fail http://x/v1/secrets/JWT_SECRET; done", user=USER)


@pytest.mark.nightly
def test_what_it_sends(rootfs: Path, deb: Path, cloud: Cloud, tmp_path: Path) -> None:
    """Each record of a read with its fields, over TLS; those of an outage of the log host too."""
    script = (
        f"useradd --create-home {USER}; apt-get install --yes --no-install-recommends /debs/*.deb;"
        " apt-get --option Acquire::Retries=5 update;"
        " apt-get install --yes --no-install-recommends rsyslog rsyslog-gnutls"
    )
    with (
        layer_of(rootfs, script, f"--bind-ro={deb.parent}:/debs") as layer,
        booted_again(rootfs, layer, deb) as vps,
    ):
        make_keys(tmp_path, vps.name)
        for name in ("ca.pem", f"{vps.name}.pem", f"{vps.name}.key"):
            known = name.replace(vps.name, "cert").replace("cert.key", "key.pem")
            vps.write(f"{KEYS}/{known}", (tmp_path / name).read_text(), 0o600)
        vps.run(f"echo 127.0.0.1 {NAME} >>/etc/hosts")  # the machine has the network of this one
        vps.write("/etc/rsyslog.d/10-vps-secrets.conf", section())
        receiver = Receiver(tmp_path)
        receiver.start()
        vps.run("systemctl restart rsyslog")
        set_up(vps, cloud, vps.name)
        read(vps, 5)
        vps.until(lambda: len(receiver.reads()) == 5)
        receiver.stop()
        read(vps, 20)
        receiver.start()
        read(vps, 5)
        vps.until(lambda: len(receiver.reads()) == 30)
        receiver.stop()
