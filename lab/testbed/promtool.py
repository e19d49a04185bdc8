"""Debian's promtool, in build/prometheus (scripts/setup promtool): what Prometheus makes of our metrics."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

PROMTOOL: Final = Path(__file__).resolve().parents[2] / "build/prometheus/promtool"


def check_metrics(exposition: bytes) -> str:
    """Return what ``promtool check metrics`` finds wrong with names, types and help; nothing is good."""
    return _run("check", "metrics", given=exposition)


def check_rules(rules: Path) -> str:
    """Return what ``promtool check rules`` finds wrong; nothing is good."""
    return _run("check", "rules", "--lint=all", "--lint-fatal", str(rules))


def test_rules(tests: Path) -> str:
    """Return what ``promtool test rules`` says of expectations that are not met; nothing is good."""
    return _run("test", "rules", str(tests))


def _run(*words: str, given: bytes = b"") -> str:
    done = subprocess.run([PROMTOOL, *words], input=given, capture_output=True, check=False)
    return (done.stdout + done.stderr).decode() if done.returncode else ""
