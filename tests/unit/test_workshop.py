"""The tools of a contributor: what they promise, tried with the tools themselves."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from lab import floors
from lab.testbed.running import ROOT

if TYPE_CHECKING:
    from pathlib import Path

SKIPPING = {
    "a test": "import pytest\ndef test_it() -> None:\n    pytest.skip('no reason')\n",
    "a module": "import pytest\npytest.skip('no reason', allow_module_level=True)\n",
}
WATCH = """
import os, sys
sys.addaudithook(lambda event, seen: event == "os.scandir" and print("looked into", seen[0]))
from setuptools import build_meta
build_meta.prepare_metadata_for_build_editable(sys.argv[1])
"""


def test_make_help_lists_every_target() -> None:
    """With a line that says what it is."""
    targets = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[0].split()
    told = subprocess.run(
        ["make", "-C", str(ROOT), "help"], capture_output=True, text=True, check=True
    ).stdout
    listed = dict(re.findall(r"^([a-z-]+) +(\S.*)$", told, re.MULTILINE))
    assert [target for target in targets if target not in listed] == []


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.parametrize("text", SKIPPING.values(), ids=SKIPPING.keys())
def test_what_is_skipped_fails_the_run(text: str, workers: str, tmp_path: Path) -> None:
    """One by one and side by side."""
    (tmp_path / "test_one.py").write_text(text)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    property\n")
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-n", workers, str(tmp_path)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "skipped without an expected reason" in run.stdout
    assert run.returncode in (1, 2)


def test_an_install_does_not_look_into_build(tmp_path: Path) -> None:
    """There a root file system may be in the making, with a /proc whose links have no end."""
    for part in ("agent", "common"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, tmp_path)
    (tmp_path / "build/rootfs/proc").mkdir(parents=True)
    (tmp_path / "metadata").mkdir()
    command = [sys.executable, "-c", WATCH, "metadata"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "agent/serve/http" in run.stdout
    assert "rootfs" not in run.stdout


def test_a_floor_only_rises() -> None:
    """What is below its floor is named; raising never lowers one; a new file needs its share."""
    now = floors.reached(
        {"files": {name: {"summary": {"percent_covered": 80.9}} for name in ("a", "b", "c")}}
    )
    assert now == {"a": 80, "b": 80, "c": 80}
    assert [line.partition(":")[0] for line in floors.sunk({"a": 83, "b": 82}, now)] == ["a", "c"]
    assert floors.raised({"a": 81, "b": 70, "gone": 9}, now) == {"a": 81, "b": 80, "c": 80}
