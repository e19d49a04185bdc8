"""A Debian with its own systemd as PID 1, booted by systemd-nspawn on a host that need not run systemd.

It lives on an overlay of a root file system, in a mount namespace and a cgroup of its own, and shares the
host's network, where the tests' Keystone and Barbican listen on the loopback address. Everything is given
back at the end. nspawn's own filters would hide memfd_secret(2), mlock(2) and IPAddressDeny=, hence its
options.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BOOT_TIMEOUT_S = 120.0
LAYER_TIMEOUT_S = 600.0
"""For packages to be installed."""
GROUPS = tuple(
    path for path in (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup/systemd")) if path.is_dir()
)
OF_ONE_MACHINE = (
    *("etc/machine-id", "var/lib/systemd/random-seed", "var/lib/systemd/credential.secret"),
    *("var/log/journal", "var/lib/dbus/machine-id"),
)
"""What a boot makes that no other machine has."""
ENVIRONMENT = (
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    *("HOME=/root", "LANG=C.UTF-8", "TERM=dumb", "SYSTEMD_PAGER=", "SYSTEMD_COLORS=0"),
    "DEBIAN_FRONTEND=noninteractive",
)
INNER = """set -e
for group in {groups}; do echo $$ >"$group/{name}/cgroup.procs"; done
{mount}
export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 NOTIFY_SOCKET={state}/notify
exec systemd-nspawn --directory={state}/root --machine={name} --register=no --keep-unit --boot \\
  --notify-ready=yes --kill-signal=SIGRTMIN+3 --link-journal=no --resolv-conf=copy-host --timezone=off \\
  --console=read-only --system-call-filter=memfd_secret --system-call-filter=bpf \\
  --capability=CAP_IPC_LOCK,CAP_BPF {options}
"""


@dataclass(frozen=True, slots=True)
class Done:
    """A command that has ended. Its output is not in ``repr``: it may hold a value."""

    code: int
    out: str
    err: str

    def __repr__(self) -> str:
        return f"<Done {self.code}>"


class Machine:
    """One boot of ``rootfs``: a directory, which is not changed, or an ext4 image, which is.

    ``layer`` is a directory of what another machine changed on it, from :attr:`changes`.
    """

    def __init__(self, rootfs: Path, *options: str, layer: Path | None = None) -> None:
        self._rootfs = rootfs
        self._layer = layer
        self._options = options
        self.name = f"vps-secrets-{os.urandom(4).hex()}"  # a host's name: no underscore
        self.state = Path("/run", self.name)
        self.state.mkdir(mode=0o755)
        self._process: subprocess.Popen[bytes] | None = None
        self._started: list[subprocess.Popen[str]] = []
        self.leader = 0

    def __enter__(self) -> Self:
        try:
            self.boot()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def boot(self) -> None:
        """Boot from what is on its disk, and wait until systemd says that it is up."""
        for part in ("upper", "work", "root"):
            (self.state / part).mkdir(exist_ok=True)
        for group in GROUPS:
            (group / self.name).mkdir()
        lower = self._rootfs if self._layer is None else f"{self._layer}:{self._rootfs}"
        overlay = f"lowerdir={lower},upperdir={self.changes},workdir={self.state}/work"
        mount = f"mount -t overlay overlay -o {overlay} {self.state}/root"
        if self._rootfs.is_file():
            mount = f"mount -o loop,noatime {self._rootfs} {self.state}/root"
        script = INNER.format(
            groups=" ".join(map(str, GROUPS)) or '""',
            name=self.name,
            mount=mount,
            state=self.state,
            options=" ".join(self._options),
        )
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            (self.state / "notify").unlink(missing_ok=True)
            notify.bind(f"{self.state}/notify")
            notify.settimeout(1.0)
            with (self.state / "console").open("wb") as console:
                self._process = subprocess.Popen(
                    ["unshare", "--mount", "--propagation", "private", "bash", "-c", script],
                    stdin=subprocess.DEVNULL,
                    stdout=console,
                    stderr=console,
                    start_new_session=True,
                )
            end = time.monotonic() + BOOT_TIMEOUT_S
            while True:
                try:
                    message = notify.recv(8192).decode(errors="replace")
                except TimeoutError:
                    assert self._process.poll() is None, (self.state / "console").read_text()[-2000:]
                    assert time.monotonic() < end, f"no boot within {BOOT_TIMEOUT_S} s"
                    continue
                if match := re.search(r"^X_NSPAWN_LEADER_PID=(\d+)", message, re.MULTILINE):
                    self.leader = int(match[1])
                if re.search(r"^READY=1", message, re.MULTILINE):
                    return

    @property
    def changes(self) -> Path:
        """The directory with what was changed on a root file system."""
        return self.state / "upper"

    def close(self) -> None:
        """Shut down, and give everything back."""
        self.halt()
        shutil.rmtree(self.state, ignore_errors=True)

    def lose_power(self) -> None:
        """End every process of it at once."""
        os.kill(self.leader, signal.SIGKILL)  # its process 1: the kernel kills all others with it
        self.halt()

    def cut_the_power(self) -> None:
        """End every process of it at once, and boot again from what is on its disk."""
        self.lose_power()
        self.boot()

    def reboot(self) -> None:
        """Shut down, and boot again from what is on its disk."""
        self.halt()
        self.boot()

    def halt(self) -> None:
        """Shut down; what was changed is there until :meth:`close`."""
        for started in self._started:
            if started.returncode is None:
                started.kill()  # nsenter(1) only: what it started ends with the machine, and its pipe
        if self._process is not None:
            self._process.terminate()  # nspawn turns it into a clean halt
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        for started in self._started:
            if started.returncode is None:
                started.communicate()
        self._started.clear()
        for group in GROUPS:
            for directory, _, _ in os.walk(group / self.name, topdown=False):
                with contextlib.suppress(OSError):
                    Path(directory).rmdir()

    def command(self, *command: str) -> list[str]:
        """Return the command line that runs a command inside."""
        parts = ("--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wd")
        return ["nsenter", "--target", str(self.leader), *parts, "--", "env", "-i", *ENVIRONMENT, *command]

    def run(
        self, script: str, *, check: bool = True, given: str = "", user: str = "root", timeout: float = 90
    ) -> Done:
        """Run a shell script inside and return how it ended; ``check``: it must succeed."""
        command = (
            ["bash", "-c", script] if user == "root" else ["runuser", "-u", user, "--", "bash", "-c", script]
        )
        ended = subprocess.run(
            self.command(*command), input=given, capture_output=True, text=True, timeout=timeout, check=False
        )
        done = Done(ended.returncode, ended.stdout, ended.stderr)
        assert not check or done.code == 0, f"{script}: {done.code}\n{done.out[-2000:]}\n{done.err[-2000:]}"
        return done

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Start a command inside; it ends with the machine at the latest."""
        started = subprocess.Popen(
            self.command(*command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started.append(started)
        return started

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file inside."""
        self.run(f"mkdir -p $(dirname {path}); cat >{path}; chmod {mode:o} {path}", given=text)

    def copy(self, source: Path, path: str) -> None:
        """Copy a file of the host into the machine."""
        with source.open("rb") as file:
            subprocess.run(self.command("sh", "-c", f"cat >{path}"), stdin=file, check=True)

    def show(self, unit: str, name: str) -> str:
        """Return a property of a unit."""
        return self.run(f"systemctl show --property {name} --value '{unit}'").out.strip()

    def pid(self, unit: str = "vps-secrets-agent.service") -> int:
        """Return the main process of a unit, as it is numbered inside."""
        return int(self.show(unit, "MainPID"))

    def host_pid(self, inside: int) -> int:
        """Return the number that a process of the machine has on the host."""
        for status in Path("/proc").glob("[0-9]*/status"):
            with contextlib.suppress(OSError):
                match = re.search(r"^NSpid:\s+(\d+)\s+(\d+)$", status.read_text(), re.MULTILINE)
                if match and int(match[2]) == inside and self._is_ours(int(match[1])):
                    return int(match[1])
        raise AssertionError(f"no process {inside} inside")

    def _is_ours(self, pid: int) -> bool:
        return Path(f"/proc/{pid}/ns/pid").readlink() == Path(f"/proc/{self.leader}/ns/pid").readlink()

    def journal(self, *matches: str) -> list[dict[str, Any]]:
        """Return the journal's entries."""
        words = " ".join(f"'{match}'" for match in matches)
        self.run("journalctl --sync", check=False)
        text = self.run(f"journalctl --output json --no-pager {words}").out
        return [json.loads(line) for line in text.splitlines()]

    def messages(self, *matches: str) -> str:
        """Return the journal as an operator reads it, less what nspawn itself causes."""
        lines = (str(entry.get("MESSAGE")) for entry in self.journal(*matches))
        return "\n".join(line for line in lines if "loopback network device" not in line)

    def until(self, condition: Callable[[], bool], seconds: float = 240.0) -> None:
        """Wait for a condition; fail, with the journal's end, where it does not come true."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"waited {seconds} s in vain:\n{self.messages('--lines=40')}"
            time.sleep(0.05)

    def until_said(self, words: str, *matches: str, seconds: float = 240.0) -> None:
        """Wait until the journal holds these words."""
        self.until(lambda: words in self.messages(*matches), seconds)


@contextlib.contextmanager
def image_of(rootfs: Path, megabytes: int = 1500) -> Iterator[Path]:
    """Make an ext4 image of a root file system."""
    with tempfile.TemporaryDirectory(prefix="vps-secrets-image-") as directory:
        image = Path(directory, "disk.ext4")
        subprocess.run(
            ["mke2fs", "-q", "-t", "ext4", "-d", str(rootfs), str(image), f"{megabytes}M"], check=True
        )
        yield image


@contextlib.contextmanager
def layer_of(rootfs: Path, script: str, *options: str) -> Iterator[Path]:
    """Boot, and run a shell script; yield what that changed, less what is one machine's own."""
    with Machine(rootfs, *options) as machine:
        machine.run(script, timeout=LAYER_TIMEOUT_S)
        machine.halt()
        for name in OF_ONE_MACHINE:
            path = machine.changes / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        yield machine.changes
