"""A file's access control list (acl(5)), as the kernel gives and takes it.

Pure: bytes in, bytes out (the extended attribute ``system.posix_acl_access``; linux/posix_acl_xattr.h).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

ATTRIBUTE: Final = "system.posix_acl_access"
OWNER, USER, GROUP_OWNER, GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
READ_WRITE: Final = 0o6
_VERSION: Final = 2
_HEAD: Final = struct.Struct("<I")
_ENTRY: Final = struct.Struct("<HHI")
_NO_ID: Final = 0xFFFFFFFF
_MASKED: Final = frozenset({USER, GROUP_OWNER, GROUP})


@dataclass(frozen=True, slots=True, order=True)
class Entry:
    """One line: ``tag`` says whose, ``id`` is the uid or gid of a named user or group, ``rights`` are rwx."""

    tag: int
    id: int
    rights: int


def decode(content: bytes) -> tuple[Entry, ...] | None:
    """Return the entries, or None where this is no list that is known here."""
    body = content[_HEAD.size :]
    if len(content) < _HEAD.size or _HEAD.unpack_from(content)[0] != _VERSION or len(body) % _ENTRY.size:
        return None
    return tuple(Entry(tag, number, rights) for tag, rights, number in _ENTRY.iter_unpack(body))


def encode(entries: tuple[Entry, ...]) -> bytes:
    """Return the attribute; the kernel wants the entries in the order of their tags and ids."""
    body = [_ENTRY.pack(one.tag, one.rights, one.id) for one in sorted(entries)]
    return _HEAD.pack(_VERSION) + b"".join(body)


def of_mode(mode: int) -> tuple[Entry, ...]:
    """Return the list that says the same as a mode."""
    classes = ((OWNER, 6), (GROUP_OWNER, 3), (OTHER, 0))
    return tuple(Entry(tag, _NO_ID, mode >> shift & 0o7) for tag, shift in classes)


def with_callers(entries: tuple[Entry, ...], users: set[int], groups: set[int]) -> tuple[Entry, ...]:
    """Return the list with read and write for these besides; nobody else's rights change."""
    named = [(USER, uid) for uid in users] + [(GROUP, gid) for gid in groups]
    mask = _mask(entries)  # has to let the new ones through, and must widen nobody: it goes into the others
    found = {
        (one.tag, one.id): one.rights & (mask if one.tag in _MASKED else 0o7)
        for one in entries
        if one.tag != MASK
    }
    found |= dict.fromkeys(named, READ_WRITE) | {(MASK, _NO_ID): 0o7}
    return tuple(sorted(Entry(tag, number, rights) for (tag, number), rights in found.items()))


def permits(entries: tuple[Entry, ...], right: int, caller: tuple[int, frozenset[int]], group: int) -> bool:
    """Return whether a caller, neither root nor the owner, has this right, by the order of acl(5).

    ``caller``: uid and groups. ``group``: the file's.
    """
    uid, groups = caller
    rights = {(one.tag, one.id): one.rights for one in entries}
    mask = _mask(entries)
    if (USER, uid) in rights:
        return bool(rights[USER, uid] & mask & right)
    his = [rights.get((GROUP_OWNER, _NO_ID), 0)] if group in groups else []
    his += [rights[GROUP, gid] for gid in groups if (GROUP, gid) in rights]
    if his:
        return any(one & mask & right for one in his)
    return bool(rights.get((OTHER, _NO_ID), 0) & right)


def _mask(entries: tuple[Entry, ...]) -> int:
    """Return what bounds all entries but those of owner and others."""
    return next((one.rights for one in entries if one.tag == MASK), 0o7)
