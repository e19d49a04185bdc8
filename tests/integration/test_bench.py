"""The benchmark runs to its end, and says what it left out. What it measures is no matter of a test."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from lab.bench.results import AGENT, MODES
from lab.testbed.running import ROOT

if TYPE_CHECKING:
    from pathlib import Path


pytestmark = pytest.mark.long


def test_a_quick_run_measures_everything(tmp_path: Path) -> None:
    """Peers that are not downloaded are named in the output; agent and C floor are always there."""
    done = subprocess.run(
        [sys.executable, "-m", "lab.bench", "--quick", "--json", tmp_path / "json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "json").read_text())
    for mode in map(str, MODES):
        assert all(one["rate"] > 0 for one in found["reads"][mode][AGENT] + found["reads"][mode]["C floor"])
    assert found["memory"][AGENT]["resident"] > 1
    assert AGENT in found["wakeupsPerMinute"]
    told = {part["name"]: part["values"] for part in found["parts"]}
    assert told["a quiet cycle: calls to the cloud"] == [1.0, 1.0]
    for name in ("exec to ready", "refresh to a watching client told", "exec to first answer, snapshot kept"):
        assert any(part.startswith(name) and min(values) > 0 for part, values in told.items()), name
    for peer in {"OpenBao agent", "custodia", "nginx, static file", "aiohttp floor"} - found["memory"].keys():
        assert f"LEFT OUT: {peer}: " in done.stderr
        assert f"**Left out: {peer}.**" in done.stdout
    assert len(found["goals"]) > 10
