"""What several tables of deployer.toml have: where a credential is, a socket."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from common.names import parse_name
from common.toml_table import account
from deployer.config.model import Credential, Socket

if TYPE_CHECKING:
    from pathlib import Path

    from common.toml_table import Table

MAX_SOCKET_PATH: Final = 107
"""Bytes in sun_path, less its NUL (unix(7))."""

_MODE: Final = re.compile(r"0?[0-7]{3}")
_OTHERS: Final = 0o007


def credential(table: Table, default: str | None, key: str = "credential") -> Credential:
    """Return where a secret is: ``KEY`` names what systemd loads for the unit, ``KEY_file`` a file."""
    expected = "must be the name of a credential that systemd loads for the unit"
    found = Credential(name=table.text(key, parse_name, expected), file=table.path(f"{key}_file"))
    if table.has(key) and table.has(f"{key}_file"):
        table.add(f"{key}_file", f"can't be combined with {key}")
    return found if found.name or found.file else Credential(name=default)


def socket(table: Table, default: Path) -> Socket:
    """Return the socket of a table's ``socket``, ``group`` and ``mode``."""
    path = table.path("socket") or default
    if len(bytes(path)) > MAX_SOCKET_PATH:
        table.add("socket", f"must be at most {MAX_SOCKET_PATH} bytes long (unix(7))")
    expected = 'must be as "0660", with nothing for others: who may use it is a matter of its group'
    return Socket(
        path=path,
        group=table.text("group", account, "must be the name of a group"),
        mode=int(table.text("mode", _mode, expected) or "0660", 8),
    )


def _mode(text: str) -> str | None:
    return text if _MODE.fullmatch(text) and not int(text, 8) & _OTHERS else None
