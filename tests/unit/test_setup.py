"""agent/cli/setup.py: what it writes; the rest is in tests/system/test_setup.py, on a booted machine."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from agent.cli import setup
from agent.cli.__main__ import _parser

if TYPE_CHECKING:
    import pytest

ARGUMENTS = ["setup", "--vps-id=v", "--container=c", "--auth-url=u", "--application-credential-id=i"]


def test_nobody_else_may_write_what_it_writes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever the umask of the shell or the provisioning tool: systemd obeys these files."""

    def run(command: list[str], *_: object) -> None:
        if command[0] == "systemd-creds":
            Path(command[-1]).touch()

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(setup, "_run", run)
    monkeypatch.setattr(setup, "_credential", lambda _: b"secret")
    for name in ("CONFIGURATION", "CREDENTIAL", "DROP_IN"):
        monkeypatch.setattr(setup, name, tmp_path / "etc" / name / "file")
    former = os.umask(0)
    try:
        assert setup.run(_parser(ARGUMENTS).parse_args([*ARGUMENTS, "--user=root", "--no-start"])) == 0
    finally:
        os.umask(former)
    written = [path for path in (tmp_path / "etc").rglob("*") if path.is_file()]
    assert len(written) == 3
    for path in (*written, *(path.parent for path in written)):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o022, path
