"""agent/core/reach.py: file permissions as the kernel reads them, which is asked in test_explain.py."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.core import acl
from agent.core.access import Peer
from agent.core.acl import Entry
from agent.core.reach import WRITE, File, kept_out, permits

APP = Peer(0, 1000, 1000, frozenset({1000, 2000}))
RUN = (File("/run", 0o755, 0, 0, "root", "root"),)


def _socket(mode: int, uid: int = 0, gid: int = 2000) -> File:
    return File("/run/app.sock", mode, uid, gid, str(uid) if uid else "root", "app" if gid else "root")


@pytest.mark.parametrize(
    ("peer", "socket", "permitted"),
    [
        (APP, _socket(0o660), True),
        (APP, _socket(0o640), False),
        (APP, _socket(0o660, gid=3000), False),
        (APP, _socket(0o662, gid=3000), True),
        (APP, _socket(0o602), False),
        (APP, _socket(0o200, uid=1000), True),
        (APP, _socket(0o066, uid=1000), False),
        (Peer(0, 0, 0, frozenset({0})), _socket(0o000), True),
    ],
)
def test_the_first_class_that_fits_decides(peer: Peer, socket: File, *, permitted: bool) -> None:
    """Owner, then group, then others; root passes."""
    assert permits(peer, socket, WRITE) is permitted
    assert (kept_out(peer, "app", RUN, socket) is None) is permitted


@pytest.mark.parametrize(
    ("socket", "advice"),
    [
        (_socket(0o660, gid=3000), "usermod -aG app recruitiq"),
        (_socket(0o640), "SocketMode=0660 with"),
        (_socket(0o466, uid=1000), "SocketMode=0660 with"),
        (_socket(0o660, gid=0), "SocketGroup=vps-secrets-app and SocketMode=0660"),
        (_socket(0o600, gid=3000), "SocketGroup=vps-secrets-app and SocketMode=0660"),
    ],
)
def test_what_to_do_follows_from_what_is_wrong(socket: File, advice: str) -> None:
    """Nobody is ever told to join the group root."""
    text = kept_out(APP, "recruitiq", RUN, socket)
    assert text is not None
    assert advice in text
    assert "usermod -aG root" not in text
    assert "SupplementaryGroups=root" not in text


@pytest.mark.parametrize(
    ("directory", "advice"),
    [
        (File("/run/x", 0o750, 0, 0, "root", "root"), "chmod o+x /run/x"),
        (File("/run/x", 0o705, 0, 2000, "root", "app"), "chmod g+x /run/x"),
        (File("/run/x", 0o677, 1000, 0, "recruitiq", "root"), "chmod u+x /run/x"),
    ],
)
def test_a_directory_keeps_out_before_the_socket_does(directory: File, advice: str) -> None:
    """The right to search is what counts."""
    text = kept_out(APP, "recruitiq", (*RUN, directory), _socket(0o000))
    assert text is not None
    assert text.endswith(advice)


def test_an_access_control_list_decides_before_the_mode() -> None:
    """Of a user who is named; the owner's entry is in the mode."""
    entries = (Entry(acl.USER, 1000, 6), Entry(acl.GROUP_OWNER, 0xFFFFFFFF, 0))
    socket = replace(_socket(0o660, gid=3000), entries=entries)
    assert permits(APP, socket, WRITE)
    assert kept_out(APP, "app", RUN, socket) is None
    stranger = Peer(0, 1001, 1001, frozenset({1001}))
    told = kept_out(stranger, "other", RUN, socket)
    assert told is not None
    assert "and an access control list" in told
    assert "vps-secrets setup --add --user other" in told
    assert permits(Peer(0, 7, 7, frozenset({7})), replace(socket, uid=7), WRITE)
