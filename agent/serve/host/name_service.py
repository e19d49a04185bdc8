"""The system's users and groups (getpwnam_r(3), getgrnam_r(3), nsswitch.conf(5)).

Python's pwd and grp say the same of a user who does not exist and of a database that can't be asked, because
SSSD is away or no descriptor is left. Here the second is an :class:`OSError`. Any call may hang as long as
the services that nsswitch.conf names do, so the agent asks in a thread (agent/serve/host/worker.py), and only
in one: which services are asked is the process's.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_SERVICES: Final = Path("/etc/nsswitch.conf")
_LINE: Final = re.compile(r"^\s*(passwd|group)\s*:([^#\n]*)", re.MULTILINE)
_ACTION: Final = re.compile(r"\[[^]]*\]")
_FIRST_BYTES: Final = 4096
_MOST_BYTES: Final = 16 * 1024 * 1024
"""An entry may be no longer: a group's has all its members."""
_NO_ID: Final = 0xFFFFFFFF  # (uid_t)-1
_LIBC: Final = ctypes.CDLL(None)
T = TypeVar("T")
S = TypeVar("S", bound=ctypes.Structure)


class User(NamedTuple):
    """A user: name, uid and primary gid."""

    name: str
    uid: int
    gid: int


class Group(NamedTuple):
    """A group: name and gid."""

    name: str
    gid: int


class _Passwd(ctypes.Structure):
    """Struct passwd of glibc."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("password", ctypes.c_char_p),
        ("uid", ctypes.c_uint32),
        ("gid", ctypes.c_uint32),
        ("gecos", ctypes.c_char_p),
        ("directory", ctypes.c_char_p),
        ("shell", ctypes.c_char_p),
    )


class _Group(ctypes.Structure):
    """Struct group of glibc."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("password", ctypes.c_char_p),
        ("gid", ctypes.c_uint32),
        ("members", ctypes.c_void_p),
    )


def user(name_or_uid: str | int) -> User | None:
    """Return a user, or None where every service says that there is none.

    Raises:
        OSError: a service could not be asked, so nobody can tell.
    """
    return _sure("passwd", lambda: _user(name_or_uid))


def group(name_or_gid: str | int) -> Group | None:
    """Return a group, or None where every service says that there is none.

    Raises:
        OSError: a service could not be asked, so nobody can tell.
    """
    return _sure("group", lambda: _group(name_or_gid))


def _user(name_or_uid: str | int) -> User | None:
    function = _LIBC.getpwuid_r if isinstance(name_or_uid, int) else _LIBC.getpwnam_r
    return _ask(function, name_or_uid, _Passwd(), lambda it: User(_text(it.name), it.uid, it.gid))


def _group(name_or_gid: str | int) -> Group | None:
    function = _LIBC.getgrgid_r if isinstance(name_or_gid, int) else _LIBC.getgrnam_r
    return _ask(function, name_or_gid, _Group(), lambda it: Group(_text(it.name), it.gid))


def _text(name: bytes) -> str:
    return name.decode(errors="replace")


def _ask(function: Any, key: str | int, entry: S, take: Callable[[S], T]) -> T | None:
    """Call one of the functions, with more room until the entry fits in; ``take`` copies from it.

    Raises:
        OSError: it failed; "not found" is no failure.
    """
    if key not in range(_NO_ID) if isinstance(key, int) else "\0" in key:
        return None  # C would take the number modulo 2**32, and the text up to there
    wanted = ctypes.c_uint32(key) if isinstance(key, int) else os.fsencode(key)
    size = _FIRST_BYTES
    while True:
        room, found = ctypes.create_string_buffer(size), ctypes.c_void_p()
        code = function(wanted, ctypes.byref(entry), room, ctypes.c_size_t(size), ctypes.byref(found))
        if code != errno.ERANGE or size >= _MOST_BYTES:
            break
        size *= 8
    if code:
        raise OSError(code, os.strerror(code))
    return None if found.value is None else take(entry)  # its strings are in the room


def _sure(database: str, ask: Callable[[], T | None]) -> T | None:
    """Return what the services say together; "not found" counts only where each of them says so itself.

    Asked together they tell the last one's failure only: systemd's, say, says "not found" after a file that
    could not be opened, and after an SSSD that is away.

    Raises:
        OSError: one of them could not be asked.
    """
    found = ask()
    if found is not None:
        return found
    configuration = _SERVICES.read_text(errors="replace") if _SERVICES.exists() else ""
    line = dict(_LINE.findall(configuration)).get(database, "").strip()
    services = _ACTION.sub(" ", line).split()
    if len(services) < 2:  # noqa: PLR2004  # it has just been asked alone
        return None
    try:
        for service in services:
            _configure(database, service)
            if (found := ask()) is not None:
                return found  # it has come meanwhile
    finally:
        _configure(database, line)
    return None


def _configure(database: str, services: str) -> None:
    """Have this process ask these services from now on, as ``getent --service`` does (nss.h)."""
    _LIBC["__nss_configure_lookup"](database.encode(), services.encode())
