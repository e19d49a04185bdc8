"""Tries what a sandboxed program must not be able to do, from inside; prints JSON."""

import ctypes
import json
import os
import pathlib
import socket
import tempfile
from collections.abc import Callable

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWUSER = 0x10000000


def works(attempt: Callable[[], object]) -> bool:
    """Return whether it can be done."""
    try:
        attempt()
    except (OSError, ValueError, AttributeError):
        return False
    return True


def writable() -> list[str]:
    """Return every directory that a file can be made in."""
    found = []
    for directory, names, _ in os.walk("/"):
        if directory.startswith("/proc"):
            names.clear()
            continue
        if works(lambda: tempfile.TemporaryFile(dir=directory)):  # noqa: B023, SIM115  # called at once
            found.append(directory)
    return found


def call(name: str, *arguments: object) -> Callable[[], None]:
    """Return an attempt at a system call by its C function."""

    def attempt() -> None:
        if getattr(LIBC, name)(*arguments) < 0:
            raise OSError(ctypes.get_errno(), name)

    return attempt


def map_executable() -> None:
    """Ask for memory that is writable and executable."""
    import mmap  # noqa: PLC0415

    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()


def main() -> None:
    """Print what is possible."""
    found = {
        "uid": os.getuid(),
        "writable": writable(),
        "inet": works(lambda: socket.socket(socket.AF_INET).close()),
        "netlink": works(lambda: socket.socket(socket.AF_NETLINK).close()),
        "packet": works(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()),
        "sees_other_processes": pathlib.Path("/proc/1/cgroup").exists(),
        "setuid": works(lambda: os.setuid(0)),
        "user_namespace": works(call("unshare", CLONE_NEWUSER)),
        "mount": works(call("mount", b"none", b"/mnt", b"tmpfs", 0, None)),
        "executable_memory": works(map_executable),
        "ptrace_init": works(call("ptrace", 16, 1, None, None)),
        "shadow": works(lambda: pathlib.Path("/etc/shadow").read_bytes()),
        "encrypted_credential": works(
            lambda: pathlib.Path("/etc/vps-secrets-agent/keystone-credential.cred").read_bytes()
        ),
        "host_key": works(lambda: pathlib.Path("/var/lib/systemd/credential.secret").read_bytes()),
        "bus": works(lambda: socket.socket(socket.AF_UNIX).connect("/run/dbus/system_bus_socket")),
        "kernel_log": works(lambda: pathlib.Path("/dev/kmsg").open("rb").close()),
        "setuid_file": works(lambda: os.chmod("/run/vps-secrets/rotated", 0o4755)),  # noqa: PTH101, S103  # the attempt
        "core_limit": works(call("setrlimit", 4, ctypes.byref((ctypes.c_ulong * 2)(1, 1)))),
    }
    print(json.dumps(found))  # noqa: T201


if __name__ == "__main__":
    main()
