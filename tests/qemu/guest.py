"""A Debian with its own kernel, in qemu: what a container can't show, such as swap and memory limits.

Software emulation, so it needs no /dev/kvm and is about ten times slower. The disk is an image with the
package on it, the swap space a file of its own: both can be searched from outside. Commands go in over a
forwarded loopback port; the test's cloud, which listens on the host's loopback address, is forwarded to the
guest's.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from lab.testbed.machine import Done, image_of
from tests.system.installed import Installed, booted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab.testbed.cloud import Cloud

BOOT_TIMEOUT_S = 400.0
SWAP_MEGABYTES = 256
HERE = Path(__file__).parent
PORT = 999
COMMAND_LINE = (
    "root=/dev/vda rw console=ttyS0 net.ifnames=0 panic=-1 "
    "systemd.mask=apt-daily.timer systemd.mask=apt-daily-upgrade.timer"
)
UNITS = {
    "guest-network.service": """[Service]
Type=oneshot
ExecStart=/bin/ip address add 10.0.2.15/24 dev eth0
ExecStart=/bin/ip link set eth0 up
ExecStart=/bin/sh -c 'mkswap /dev/vdb && swapon /dev/vdb'
[Install]
WantedBy=multi-user.target
""",
    "remote.socket": f"[Socket]\nListenStream={PORT}\nAccept=yes\n[Install]\nWantedBy=sockets.target\n",
    "remote@.service": """[Unit]
CollectMode=inactive-or-failed
[Service]
ExecStart=/usr/bin/python3 -I /usr/local/lib/remote.py
StandardInput=socket
StandardOutput=socket
StandardError=journal
""",
}
FORWARD = {
    "cloud-{port}.socket": "[Socket]\nListenStream=127.0.0.1:{port}\n[Install]\nWantedBy=sockets.target\n",
    "cloud-{port}.service": "[Service]\nExecStart=/lib/systemd/systemd-socket-proxyd 10.0.2.2:{port}\n",
}


class Guest(Installed):
    """A boot of ``image`` with ``swap`` as its swap space; kernel and initrd are out of ``rootfs``."""

    def __init__(self, rootfs: Path, image: Path, swap: Path) -> None:
        super().__init__(rootfs)
        self.image, self.swap = image, swap
        self._qemu: subprocess.Popen[bytes] | None = None
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port: int = free.getsockname()[1]

    def __enter__(self) -> Self:
        kernel = next((self._rootfs / "boot").glob("vmlinuz-*"))
        initrd = next((self._rootfs / "boot").glob("initrd.img-*"))
        console = (self.state / "console").open("wb")
        with console:
            self._qemu = subprocess.Popen(
                [
                    *("qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", "1024"),
                    *("-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio"),
                    *("-kernel", str(kernel), "-initrd", str(initrd)),
                    *("-append", COMMAND_LINE),
                    *("-drive", f"file={self.image},if=virtio,format=raw"),
                    *("-drive", f"file={self.swap},if=virtio,format=raw"),
                    *("-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:{self._port}-:{PORT}"),
                    *("-device", "virtio-net-pci,netdev=net", "-device", "virtio-rng-pci"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
            )
        try:
            self._wait()
        except BaseException:
            self.close()
            raise
        return self

    def _wait(self) -> None:
        assert self._qemu is not None
        end = time.monotonic() + BOOT_TIMEOUT_S
        while True:
            with contextlib.suppress(OSError, ValueError):
                self.run("systemctl is-system-running --wait", check=False, timeout=BOOT_TIMEOUT_S)
                return
            told = (self.state / "console").read_text(errors="replace")[-3000:]
            assert self._qemu.poll() is None, told
            assert time.monotonic() < end, f"no boot within {BOOT_TIMEOUT_S} s\n{told}"
            time.sleep(1)

    def close(self) -> None:
        """Switch it off."""
        if self._qemu is not None:
            self._qemu.terminate()
            self._qemu.wait()
        shutil.rmtree(self.state, ignore_errors=True)

    def run(
        self, script: str, *, check: bool = True, given: str = "", user: str = "root", timeout: float = 300
    ) -> Done:
        """Run a shell script inside and return how it ended."""
        command = ["bash", "-c", script]
        if user != "root":
            command = ["runuser", "-u", user, "--", *command]
        with socket.create_connection(("127.0.0.1", self._port), timeout=timeout) as connection:
            connection.sendall(json.dumps({"command": command, "given": given}).encode())
            connection.shutdown(socket.SHUT_WR)
            with connection.makefile("rb") as answer:
                done = Done(*json.loads(answer.read()))
        assert not check or done.code == 0, f"{script}: {done.code}\n{done.out[-2000:]}\n{done.err[-2000:]}"
        return done

    def until(self, condition: Any, seconds: float = 240.0) -> None:
        """Wait for a condition, with more time than a container needs."""
        super().until(condition, seconds)


@contextlib.contextmanager
def guest(rootfs: Path, deb: Path, cloud: Cloud) -> Iterator[Guest]:
    """Install the package on an image, as a user would, and boot that."""
    with image_of(rootfs, 2500) as image:
        with booted(image, deb) as machine:
            machine.write("/usr/local/lib/remote.py", (HERE / "remote.py").read_text())
            units = dict(UNITS)
            for port in (cloud.testbed.places.keystone_port, cloud.testbed.places.barbican_port):
                units |= {name.format(port=port): text.format(port=port) for name, text in FORWARD.items()}
            for name, text in units.items():
                machine.write(f"/etc/systemd/system/{name}", text)
            enabled = [name for name, text in units.items() if "[Install]" in text]
            machine.run(f"systemctl enable {' '.join(enabled)}")
        swap = image.with_name("swap")
        with swap.open("wb") as file:
            file.truncate(SWAP_MEGABYTES * 1024 * 1024)
        with Guest(rootfs, image, swap) as made:
            yield made
