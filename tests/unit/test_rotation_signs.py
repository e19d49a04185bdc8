"""agent/serve/host/rotation_trigger.py: what systemd, which waits for the signs, sees of them."""

from __future__ import annotations

import ctypes
import os
import struct
from typing import TYPE_CHECKING

from agent.serve.host import rotation_trigger

if TYPE_CHECKING:
    from pathlib import Path

IN_ATTRIB, IN_CLOSE_WRITE, IN_MOVED_TO, IN_CREATE = 0x4, 0x8, 0x80, 0x100
_EVENT = struct.Struct("iIII")


def events(watch: int) -> list[int]:
    """Return the masks of all events so far (inotify(7))."""
    try:
        data, found, at = os.read(watch, 65536), [], 0
    except BlockingIOError:
        return []
    while at < len(data):
        _, mask, _, length = _EVENT.unpack_from(data, at)
        found.append(mask)
        at += _EVENT.size + length
    return found


def watch(path: Path, mask: int) -> int:
    """Watch a path as systemd does."""
    libc = ctypes.CDLL(None, use_errno=True)
    made: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    assert libc.inotify_add_watch(made, os.fsencode(path), mask) >= 0
    return made


def test_a_sign_is_seen_and_its_directory_is_not(tmp_path: Path) -> None:
    """Else systemd, which then watches everything anew, could forget the sign (path_spec_watch, 257)."""
    sign = tmp_path / rotation_trigger.ALL
    rotation_trigger._say(sign)
    before = sign.stat().st_mtime_ns
    os.utime(sign, ns=(1, 1))
    file, directory = watch(sign, IN_CLOSE_WRITE), watch(tmp_path, IN_ATTRIB | IN_CREATE | IN_MOVED_TO)
    rotation_trigger._say(sign)
    assert events(file) == [IN_CLOSE_WRITE]
    assert sign.stat().st_mtime_ns >= before
    assert sign.stat().st_size == 0
    assert events(directory) == []
    for descriptor in (file, directory):
        os.close(descriptor)
