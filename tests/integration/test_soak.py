"""A short soak, on the real Keystone and Barbican: `make soak` runs the same for half an hour."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from lab.testbed.running import ROOT

if TYPE_CHECKING:
    from pathlib import Path


pytestmark = pytest.mark.long


@pytest.mark.timeout(300)
@pytest.mark.nightly
def test_a_short_soak_is_flat(tmp_path: Path) -> None:
    """Rotations, clients and an outage; nothing is left over, and every warning has its reason."""
    samples = tmp_path / "run.json"
    few = ["--minutes", "0.2", "--every", "1", "--least", "3"]
    command = [sys.executable, "-m", "lab.soak", *few, "--json", str(samples)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    found = json.loads(samples.read_text())
    assert {"rotation", "crowd", "barbican down"} <= found["done"].keys()
    assert found["told"]["read"] > 0
