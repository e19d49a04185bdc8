"""Payloads in anonymous memory files that reach no disk.

Owns the mapping and the descriptor of each file. ``memfd_secret(2)`` where the kernel has it: never swapped
and not in the kernel's direct map. Else ``memfd_create(2)`` with ``mlock(2)``. A file is written once, when
it is made, and overwritten with zeros before it is given up.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from typing import TYPE_CHECKING, Final

from agent.core.errors import MemoryLockError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_SYS_MEMFD_SECRET: Final = 447  # the same number on every architecture since Linux 5.14
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


class MemoryFile:
    """Some payloads, back to back, in one anonymous memory file that is mapped once.

    Raises:
        MemoryLockError: the kernel gives no such file, for example because RLIMIT_MEMLOCK is reached.
    """

    def __init__(self, payloads: Sequence[bytes | memoryview]) -> None:
        self.size: Final = max(mmap.PAGESIZE, sum(map(len, payloads)))
        self.kind, self.locked, self._fd, self._map = _make(self.size)
        self.views: Final = self._write(payloads)
        """One view per payload, in their order; the file's only way out."""

    def _write(self, payloads: Sequence[bytes | memoryview]) -> list[memoryview]:
        whole = memoryview(self._map)
        views = []
        offset = 0
        for payload in payloads:
            end = offset + len(payload)
            whole[offset:end] = payload
            views.append(whole[offset:end].toreadonly())
            offset = end
        whole.release()
        return views

    def close(self) -> None:
        """Overwrite the payloads with zeros and give the memory back; safe to call twice.

        A view that somebody still holds reads zeros afterwards, and its memory goes with it.
        """
        if self._map.closed:
            return
        self._map[:] = bytes(self.size)
        for view in self.views:
            view.release()
        os.close(self._fd)
        self._map.close()

    def __repr__(self) -> str:
        return f"<MemoryFile {self.kind} {self.size} bytes>"


def _make(size: int) -> tuple[str, bool, int, mmap.mmap]:
    """Return (kind, whether it can't be swapped, descriptor, mapping) of the best file there is."""
    for kind, create in (("memfd_secret", _memfd_secret), ("memfd", _memfd)):
        made = _mapped(create, size)
        if made is not None:
            fd, mapping = made
            return kind, kind == "memfd_secret" or _lock(mapping), fd, mapping
    raise MemoryLockError(
        f"the kernel gave no memory file of {size} bytes; raise LimitMEMLOCK= or free memory"
    )


def _mapped(create: Callable[[], int], size: int) -> tuple[int, mmap.mmap] | None:
    try:
        fd = create()
    except OSError:
        return None
    try:
        os.ftruncate(fd, size)
        return fd, mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
    except (OSError, ValueError):
        os.close(fd)
        return None


def _memfd_secret() -> int:
    fd: int = _LIBC.syscall(_SYS_MEMFD_SECRET, os.O_CLOEXEC)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "memfd_secret")
    return fd


def _memfd() -> int:
    return os.memfd_create("vps-secrets", os.MFD_CLOEXEC)


def _lock(mapping: mmap.mmap) -> bool:
    """Keep the mapping out of swap (mlock(2)); False where the limit does not allow it."""
    start = ctypes.c_char.from_buffer(mapping)
    try:
        locked: int = _LIBC.mlock(ctypes.byref(start), ctypes.c_size_t(len(mapping)))
    finally:
        del start  # it would keep the mapping from being closed
    return locked == 0
