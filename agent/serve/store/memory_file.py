"""Payloads in anonymous memory files that reach no disk.

Owns the mapping and the descriptor of each file. ``memfd_secret(2)`` where the kernel has it: never swapped
and not in the kernel's direct map. Else ``memfd_create(2)`` with ``mlock(2)``. Index and payloads are written
when a file is made, and overwritten with zeros before it is given up.

A file that shrinks can be written anew in place, which needs nothing from the kernel: what has to go must go
also where no descriptor and no memory is left (docs/adr/0016).

A file tells by itself what is in it, so that another process can adopt it (agent/serve/host/fdstore.py)::

    magic, moments, counts, SHA-256 of counts and the rest | sizes | index (text of the owner's) | payloads
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import math
import mmap
import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from agent.core.errors import MemoryLockError
from common.errors import VpsSecretsError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MAX_PAYLOAD_COUNT: Final = 1024
MAX_BYTES: Final = 64 * 1024 * 1024
SECRET, ORDINARY = "memfd_secret", "memfd"

_MAGIC: Final = b"vps-sec\x04"  # the last byte is the version of this layout
_MOMENTS: Final = struct.Struct("=6d")
_COUNTS: Final = struct.Struct("=IIQ")  # payloads, index bytes, payload bytes
_HEAD: Final = struct.Struct("=8s6dIIQ32s")  # magic, moments, payloads, index bytes, payload bytes, digest
_MOMENTS_AT: Final = len(_MAGIC)
_SYS_MEMFD_SECRET: Final = 447  # the same number on every architecture since Linux 5.14
_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_ZEROS: Final = bytes(mmap.PAGESIZE)  # made now: there may be no memory for more when it is needed
_NONE: Final = float("-inf")
_ADVICE: Final = {errno.EMFILE: "raise LimitNOFILE=", errno.ENFILE: "raise fs.file-max"}
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
"""What keeps the size of an ordinary file; that of memfd_secret(2) can be set once."""


class Moments(NamedTuple):
    """What a file remembers besides its payloads: the only part that changes. Moments on the boot clock (s).

    ``confirmed``: when Barbican last agreed; ``denied_since``: since when it refuses; ``attempted``: when it
    was last asked; ``calls``: how many were made to it since ``counted_since`` (agent/core/budget.py).
    ``ahead``: how far the wall clock was ahead of the boot clock (s) when these were told (docs/adr/0022).
    """

    confirmed: float | None = None
    denied_since: float | None = None
    attempted: float | None = None
    counted_since: float | None = None
    calls: float | None = None
    ahead: float | None = None

    def are_possible(self, now: float) -> bool:
        """Return whether all but the count, which begins anew then, can be of a time before ``now`` (s)."""
        moments = (self.confirmed, self.denied_since, self.attempted)
        return (self.ahead is None or math.isfinite(self.ahead)) and all(
            moment is None or 0.0 <= moment <= now for moment in moments
        )


class AdoptionError(VpsSecretsError):
    """A memory file of a former process is not used; the text tells why, never what is in it."""


class MemoryFile:
    """Some payloads, back to back, in one anonymous memory file that is mapped once.

    ``index`` is what the owner wants to find beside them: it holds no payload. ``fd`` stays the file's own.

    Raises:
        MemoryLockError: the kernel gives no such file, for example because RLIMIT_MEMLOCK is reached.
    """

    def __init__(
        self,
        payloads: Sequence[bytes | memoryview],
        index: bytes = b"",
        moments: Moments = Moments(),  # noqa: B008  # immutable
    ) -> None:
        sizes = struct.pack(f"={len(payloads)}Q", *map(len, payloads))
        content = sum(map(len, payloads))
        counts = (len(payloads), len(index), content)
        self.index = index
        self.size: Final = max(mmap.PAGESIZE, _HEAD.size + len(sizes) + len(index) + content)
        self.kind, self.locked, self.fd, self._map = _make(self.size)
        self.views = self._write(payloads, sizes)
        """One view per payload, in their order; the file's only way out."""
        digest = _digest(counts, self._map)
        _HEAD.pack_into(self._map, 0, _MAGIC, *_numbers(moments), *counts, digest)

    @classmethod
    def adopt(cls, fd: int) -> Self:
        """Return the file of a former process; the descriptor is its own from now on.

        Raises:
            AdoptionError: it is not a file of ours, or damaged, or made by another version; fd is closed.
        """
        self = cls.__new__(cls)
        try:
            self._adopt(fd)
        except (OSError, ValueError, struct.error):
            problem = "it can't be mapped"
        except AdoptionError as error:
            problem = str(error)
        else:
            return self
        os.close(fd)
        raise AdoptionError(problem)

    def _adopt(self, fd: int) -> None:
        kind = kind_of(fd)
        if kind is None:
            raise AdoptionError("it is not an anonymous memory file")
        if kind == ORDINARY and fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
            raise AdoptionError("its size could change")  # to read past its end would be fatal (SIGBUS)
        size = os.fstat(fd).st_size
        if not mmap.PAGESIZE <= size <= MAX_BYTES:
            raise AdoptionError("its size is out of bounds")
        mapping = mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        magic, *_, count, index_bytes, content, digest = _HEAD.unpack_from(mapping)
        start = _HEAD.size + 8 * count
        if magic[:-1] != _MAGIC[:-1]:
            raise AdoptionError("it is not a file of this agent")
        if magic != _MAGIC:
            raise AdoptionError("another version of the agent made it")
        if count > MAX_PAYLOAD_COUNT or max(start + index_bytes + content, mmap.PAGESIZE) != size:
            raise AdoptionError("its lengths do not fit: it is damaged")
        if digest != _digest((count, index_bytes, content), mapping):
            raise AdoptionError("its digest does not fit: it is damaged")
        sizes = struct.unpack_from(f"={count}Q", mapping, _HEAD.size)
        if sum(sizes) != content:
            raise AdoptionError("its lengths do not fit: it is damaged")
        # Final members are set here as well: this is the other way to make one
        vars(self).update(
            index=mapping[start : start + index_bytes],
            size=size,
            kind=kind,
            locked=kind == SECRET or _lock(mapping),
            fd=fd,
            _map=mapping,
            views=_cut(mapping, start + index_bytes, sizes),
        )

    def _write(self, payloads: Sequence[bytes | memoryview], sizes: bytes) -> list[memoryview]:
        start = _HEAD.size + len(sizes)
        self._map[_HEAD.size : start] = sizes
        self._map[start : start + len(self.index)] = self.index
        start += len(self.index)
        with memoryview(self._map) as whole:
            for payload in payloads:
                whole[start : start + len(payload)] = payload
                start += len(payload)
        lengths = tuple(map(len, payloads))
        return _cut(self._map, start - sum(lengths), lengths)

    @property
    def moments(self) -> Moments:
        """What the file remembers besides its payloads."""
        numbers = _MOMENTS.unpack_from(self._map, _MOMENTS_AT)
        return Moments(*(None if number == _NONE else number for number in numbers))

    def remember(self, moments: Moments) -> None:
        """Replace the moments."""
        _MOMENTS.pack_into(self._map, _MOMENTS_AT, *_numbers(moments))

    def keep_only(self, positions: Sequence[int], index: bytes) -> None:
        """Overwrite all payloads but those at ``positions`` (rising), in place, and take their new ``views``.

        The former views are dead afterwards. A process that is killed meanwhile leaves a file that its digest
        does not fit, so it is refused whole.

        Raises:
            ValueError: the index does not fit into what becomes free; nothing has changed.
        """
        sizes = [len(self.views[position]) for position in positions]
        starts = [sum(len(view) for view in self.views[:position]) for position in positions]
        begin = _HEAD.size + 8 * len(self.views) + len(self.index)
        table, content = struct.pack(f"={len(sizes)}Q", *sizes), sum(sizes)
        room = self.size - _HEAD.size - len(table) - content
        if len(index) > room:
            raise ValueError("the index does not fit")
        index = index.ljust(room)  # white space, which JSON allows: so every byte before the payloads is new
        before = table + index
        for view in self.views:
            view.release()
        to = self.size
        for start, size in zip(reversed(starts), reversed(sizes), strict=True):
            to -= size
            self._map.move(to, begin + start, size)
        self._map[_HEAD.size : to] = before
        self.index, self.views = index, _cut(self._map, to, sizes)
        counts = (len(sizes), len(index), content)
        _HEAD.pack_into(self._map, 0, _MAGIC, *_numbers(self.moments), *counts, _digest(counts, self._map))

    def close(self, *, wipe: bool = True) -> None:
        """Overwrite all with zeros, unless another holder is to read it, and give the memory back.

        Safe to call twice. A view that somebody still holds reads zeros afterwards, and its memory goes with
        it.
        """
        if self._map.closed:
            return
        if wipe:
            for start in range(0, self.size, len(_ZEROS)):
                end = min(self.size, start + len(_ZEROS))
                self._map[start:end] = _ZEROS[: end - start]
        for view in self.views:
            view.release()
        os.close(self.fd)
        self._map.close()

    def __repr__(self) -> str:
        return f"<MemoryFile {self.kind} {self.size} bytes>"


def kind_of(fd: int) -> str | None:
    """Return the kind of an anonymous memory file by its name in /proc (proc(5)), or None."""
    target = str(Path(f"/proc/self/fd/{fd}").readlink())
    if target.startswith("/secretmem"):
        return SECRET
    return ORDINARY if target.startswith("/memfd:vps-secrets") else None


def swap_is_off() -> bool:
    """Return whether nothing of this unit can reach a swap space, also after this process has died.

    mlock(2) ends with its process. ``memory.swap.max`` 0 (MemorySwapMax=0) holds on, and so does a machine
    without swap.
    """
    group = next((line[3:] for line in _lines("/proc/self/cgroup") if line.startswith("0::")), None)
    if group is not None and _lines(f"/sys/fs/cgroup{group}/memory.swap.max") == ["0"]:
        return True
    return len(_lines("/proc/swaps")) == 1  # its heading


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def _numbers(moments: Moments) -> tuple[float, ...]:
    return tuple(_NONE if moment is None else moment for moment in moments)


def _digest(counts: tuple[int, int, int], mapping: mmap.mmap) -> bytes:
    """Return SHA-256 of the head's counts and all that follows it, through a view: no payload is copied."""
    digest = hashlib.sha256(_COUNTS.pack(*counts))
    with memoryview(mapping) as whole, whole[_HEAD.size :] as rest:
        digest.update(rest)
    return digest.digest()


def _cut(mapping: mmap.mmap, start: int, sizes: Sequence[int]) -> list[memoryview]:
    views = []
    with memoryview(mapping) as whole:
        for size in sizes:
            views.append(whole[start : start + size].toreadonly())
            start += size
    return views


def _make(size: int) -> tuple[str, bool, int, mmap.mmap]:
    """Return (kind, whether it can't be swapped, descriptor, mapping) of the best file there is."""
    number = 0
    for kind, create in ((SECRET, _memfd_secret), (ORDINARY, _memfd)):
        try:
            fd, mapping = _mapped(kind, create, size)
        except OSError as error:
            number = error.errno or 0
        except MemoryError:
            number = errno.ENOMEM
        else:
            return kind, kind == SECRET or _lock(mapping), fd, mapping
    advice = _ADVICE.get(number, "raise LimitMEMLOCK= or free memory")
    raise MemoryLockError(f"the kernel gave no memory file of {size} bytes ({os.strerror(number)}); {advice}")


def _mapped(kind: str, create: Callable[[], int], size: int) -> tuple[int, mmap.mmap]:
    fd = create()
    try:
        os.ftruncate(fd, size)
        if kind == ORDINARY:
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        return fd, mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
    except BaseException:
        os.close(fd)
        raise


def _memfd_secret() -> int:
    fd: int = _LIBC.syscall(_SYS_MEMFD_SECRET, os.O_CLOEXEC)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "memfd_secret")
    return fd


def _memfd() -> int:
    return os.memfd_create("vps-secrets", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


def _lock(mapping: mmap.mmap) -> bool:
    """Keep the mapping out of swap (mlock(2)); False where the limit does not allow it."""
    start = ctypes.c_char.from_buffer(mapping)
    try:
        locked: int = _LIBC.mlock(ctypes.byref(start), ctypes.c_size_t(len(mapping)))
    finally:
        del start  # it would keep the mapping from being closed
    return locked == 0
