"""``vps-secrets-registrar --listen``, where somebody listens already."""

from __future__ import annotations

import socket
import subprocess
import sys
from typing import TYPE_CHECKING

from lab.testbed.running import ROOT

if TYPE_CHECKING:
    from pathlib import Path


def test_another_one_that_listens_is_told(tmp_path: Path) -> None:
    """In words, and not as a defect to be reported."""
    (tmp_path / "deployer.toml").write_text(f'[registrar]\nsocket = "{tmp_path}/registrar.sock"\n')
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(f"{tmp_path}/registrar.sock")
        other.listen()
        done = subprocess.run(
            [sys.executable, "-m", "deployer.registrar", "--listen", "--config", f"{tmp_path}/deployer.toml"],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
            timeout=60,
        )
    assert done.returncode == 1
    assert "another process listens at" in done.stderr
    assert "report it" not in done.stderr
