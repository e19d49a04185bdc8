"""The tools of a contributor: what they promise, tried with the tools themselves."""

from __future__ import annotations

import os
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


@pytest.mark.parametrize(
    ("first", "marks"),
    [
        ("coverage", {"slow": False}),
        ("coverage", {"slow": True}),
        *(("test", {"slow": slow, "long": long}) for slow in (True, False) for long in (True, False)),
    ],
)
def test_what_one_script_leaves_out_the_other_runs(first: str, marks: dict[str, bool]) -> None:
    """And only that: make test or make test-long has each test once, and .ci/run both."""
    ran = [
        eval(found[1], {"slow": False, "long": False, "nightly": False} | marks)  # noqa: S307  # our own text
        for name in (first, "test-long")
        if (found := re.search(r'-m "([a-z ()]+)"', (ROOT / "scripts" / name).read_text()))
    ]
    assert sorted(ran) == [False, True]
    for name in ("test", "test-long"):
        assert f"make {name}\n" in (ROOT / ".ci/run").read_text()


def run_of_ci(tmp_path: Path, former: str = "", new: str = "") -> subprocess.CompletedProcess[str]:
    """Run .ci/run, with a text in it replaced, beside programs that write what was to be done to ``ran``."""
    script = (ROOT / ".ci/run").read_text()
    assert former in script
    for name, text in {
        ".ci/run": script.replace(former, new, 1),
        "bin/apt-get": "#!/bin/sh\n",
        "bin/make": "#!/bin/sh\necho $1 >>ran\n[ $1 != test ] && [ $1 != deb-check ]\n",
        "scripts/rootfs": "#!/bin/sh\n",
        "scripts/rootfs-cloud": "#!/bin/sh\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    environ = os.environ | {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
    return subprocess.run([tmp_path / ".ci/run"], env=environ, capture_output=True, text=True, check=False)


def test_one_run_of_ci_says_all_that_is_wrong(tmp_path: Path) -> None:
    """A step that fails keeps none from running, and is named at the end."""
    run = run_of_ci(tmp_path)
    ran = (tmp_path / "ran").read_text().split()
    assert sorted(ran) == ["deb-check", "test", "test-long", "test-qemu", "test-system"]
    assert run.stderr.splitlines() == ["ci: failed: make test", "ci: failed: make deb-check, the rest of it"]
    table = run.stdout.partition("ci: minutes of each step\n")[2]
    assert re.search(r"make test, failed with status 1\n.* tools\n", table)
    assert run.returncode == 1


def test_what_ci_leaves_out_on_a_slow_machine_is_named(tmp_path: Path) -> None:
    """After an hour nothing begins, and nothing is left out in silence."""
    run = run_of_ci(tmp_path, "LATEST=3600", "LATEST=3600 SECONDS=3601")
    assert run.returncode == 0
    assert not (tmp_path / "ran").exists()
    assert run.stdout.count("LEFT OUT, not tried: ") == run.stdout.count("\n") - 2 > 8
    for name in ("make test", "make test-long", "make test-system", "make test-qemu"):
        assert f"{name}: LEFT OUT" in run.stdout


ONCE = """
from pathlib import Path
def test_one():
    seen = Path("{seen}")
    first, _ = not seen.exists(), seen.touch()
    assert not {fails}
def test_two(): pass
"""


@pytest.mark.slow
@pytest.mark.parametrize(("fails", "status", "named"), [("first", 0, 1), ("True", 1, 0), ("False", 0, 0)])
def test_a_test_that_fails_once_is_named(fails: str, status: int, named: int, tmp_path: Path) -> None:
    """One that fails again fails the run, one that passes is not named."""
    (tmp_path / "test_one.py").write_text(ONCE.format(seen=tmp_path / "seen", fails=fails))
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    again = tmp_path / "again"
    again.touch()
    command = [str(ROOT / "scripts" / "pytest"), "--numprocesses", "2", str(tmp_path)]
    run = subprocess.run(
        command, env=os.environ | {"AGAIN": str(again)}, capture_output=True, text=True, check=False
    )
    assert run.returncode == status, run.stdout + run.stderr
    assert again.read_text().count("::test_one\n") == named
    assert "test_two" not in again.read_text()


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
