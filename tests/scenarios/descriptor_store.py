"""systemd's store of descriptors. Apart from the machine, which imports serve, and with it blocks ssl."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

MAX_STORED = 32


class DescriptorStore:
    """What sd_notify(3) says about FDSTORE, FDNAME and FDSTOREREMOVE, on a real notify socket."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.socket.bind(str(path))
        self.kept: list[tuple[str, int]] = []

    def close(self) -> None:
        """Give everything up."""
        self.socket.close()
        for _, fd in self.kept:
            os.close(fd)
        self.kept.clear()

    def take_all(self) -> None:
        """Take every message that has arrived."""
        with contextlib.suppress(BlockingIOError):
            while True:
                message, fds, _, _ = socket.recv_fds(self.socket, 65536, 8)
                self._take(dict(line.split("=", 1) for line in message.decode().splitlines()), fds)

    def _take(self, message: dict[str, str], fds: list[int]) -> None:
        name = message.get("FDNAME", "stored")
        if "FDSTOREREMOVE" in message:
            for gone in [entry for entry in self.kept if entry[0] == name]:
                self.kept.remove(gone)
                os.close(gone[1])
        for fd in fds:
            if "FDSTORE" in message and len(self.kept) < MAX_STORED:
                self.kept.append((name, fd))
            else:
                os.close(fd)  # a barrier, or too many
