"""packaging/launchers/vps-secrets-rotated, with its paths in a directory of ours and a fake systemctl."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

LAUNCHER = Path(__file__).parents[2] / "packaging/launchers/vps-secrets-rotated"
FUTURE = 4_000_000_000


@dataclass(frozen=True)
class Machine:
    """Where the signs are, and what systemctl was asked for."""

    directory: Path

    def touch(self, sign: str, moment: float | None = None) -> None:
        """Touch a sign, now or at another moment by the clock of then."""
        path = self.directory / "rotated" / sign
        path.touch()
        if moment is not None:
            os.utime(path, (moment, moment))

    def run(self, unit: str = "app") -> list[str]:
        """Run it for a unit, and return what was asked for since the last run."""
        asked = self.directory / "asked"
        asked.write_text("")
        subprocess.run([self.directory / "launcher", unit], check=True, timeout=20)
        return asked.read_text().splitlines()


def _moved(launcher: str, directory: Path) -> str:
    """Return the launcher with our directory in place of its own, and first in its PATH."""
    assert launcher.count("\nPATH=") == 1
    moved = launcher.replace("\nPATH=", f"\nPATH={directory}:")
    return moved.replace("/run/vps-secrets", str(directory))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """One with nothing rotated yet."""
    for name in ("rotated", "told"):
        (tmp_path / name).mkdir()
    for name, text in (
        ("launcher", _moved(LAUNCHER.read_text(), tmp_path)),
        ("systemctl", f'#!/bin/sh\necho "$@" >>{tmp_path}/asked\n'),
        ("sleep", "#!/bin/sh\n"),
    ):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    return Machine(tmp_path)


def test_each_sign_is_told_once(machine: Machine) -> None:
    """The unit's own and everybody's; both together are one."""
    told = ["--no-block try-reload-or-restart -- app.service"]
    assert machine.run() == []
    machine.touch("app")
    machine.touch("other")
    assert (machine.run(), machine.run()) == (told, [])
    machine.touch("all")
    assert (machine.run(), machine.run()) == (told, [])
    machine.touch("app")
    machine.touch("all")
    assert (machine.run(), machine.run()) == (told, [])


def test_a_clock_that_is_set_back_changes_nothing(machine: Machine) -> None:
    """A sign of the future is told once, not until its time has come; the next one is told too."""
    machine.touch("app", FUTURE)
    assert len(machine.run()) == 1
    machine.touch("app", 1_000_000_000)
    assert (len(machine.run()), machine.run()) == (1, [])
