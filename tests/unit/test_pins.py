"""What the environments are made of: no other bytes than those that were pinned."""

from __future__ import annotations

import re

import pytest

from lab import pins
from lab.testbed.running import ROOT

FILES = sorted(path.name for path in pins.PINS.glob("*.txt"))


@pytest.mark.parametrize("name", FILES)
def test_every_package_is_pinned_by_its_bytes(name: str) -> None:
    """One version, and the digest of each of its files; what is installed is always the whole file."""
    lines = [line for line in (pins.PINS / name).read_text().splitlines() if not line.startswith("#")]
    assert lines
    for line in lines:
        entry = pins.ENTRY.match(line)
        assert entry is not None, line
        assert "--hash=sha256:" in line, line
    used = (ROOT / "scripts" / ("fuzz" if name == "fuzz.txt" else "setup")).read_text()
    assert re.search(r"pip.* --no-deps --require-hashes ", used)
    assert "--constraint" not in used


@pytest.mark.parametrize(
    ("file", "ours"),
    [
        ("one_two-1.0-py3-none-any.whl", True),
        ("one_two-1.0-py2.py3-none-any.whl", True),
        ("One.Two-1.0.tar.gz", True),
        ("one_two-1.0-1-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl", True),
        ("one_two-1.0-cp39-abi3-manylinux_2_28_aarch64.whl", True),
        ("one_two-1.0-cp310-cp310-manylinux_2_17_x86_64.whl", False),
        ("one_two-1.0-cp311-cp311-musllinux_1_2_x86_64.whl", False),
        ("one_two-1.0-cp311-cp311-win_amd64.whl", False),
        ("one_two-1.0.1-py3-none-any.whl", False),
        ("one-two-1.0.1.tar.gz", False),
        ("one_two_three-1.0-py3-none-any.whl", False),
    ],
)
def test_which_files_are_ours(file: str, ours: bool) -> None:  # noqa: FBT001  # one of the table
    """Those of the version, for the Python and the machines that are supported."""
    assert pins.is_of(file, "one-two", "1.0") is ours
