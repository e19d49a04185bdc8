"""The deployer's benchmark runs, on little: what it measures is no matter here."""

from __future__ import annotations

import subprocess
import sys

import pytest

from lab.bench_deployer.figures import Figure, table


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.nightly
def test_it_measures_what_it_promises() -> None:
    """One line for each figure."""
    line = [sys.executable, "-m", "lab.bench_deployer", "--quick"]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    for what in (
        "take, read and release all",
        "memory of the process",
        "what is due, nothing, p50",
        "the fleet's page, CPU of the server",
        "rotation: calls to Barbican",
        "real Barbican: calls to provision a VPS of 7 secrets",
        "real Barbican: 8 at a time: share of the bare client's rate",
        "real Barbican: emergency of 2 VPSs, 14 secrets: all is replaced",
        "real Barbican: rotation due to listed in the container, p99",
        "vps revoke: order to nothing reads, and nobody logs in",
        "user disabled only, cache 5 s: a token that Barbican knows reads nothing",
    ):
        assert what in done.stdout
    assert done.stderr == ""


def test_a_promise_is_kept_or_missed() -> None:
    """At most or at least; the table tells it, and what was missed is told loudly."""
    kept, missed = Figure("a", 1.0, "s", most=1.0), Figure("b", 0.7, "", least=0.8)
    free = Figure("c", 9.0, "ms")
    assert [one.holds for one in (kept, missed, free)] == [True, False, True]
    assert "(at least 0.8: MISSED)" in str(missed)
    assert table([kept, missed, free]).splitlines()[2:] == [
        "| a | 1.00 s | at most 1 |",
        "| b | 0.70 | at least 0.8: **missed** |",
        "| c | 9.00 ms | |",
    ]


def test_only_a_whole_run_is_kept() -> None:
    """The documents would have half of one machine and half of another."""
    for words in (["--write", "acts"], ["--write", "--quick"]):
        line = [sys.executable, "-m", "lab.bench_deployer", *words]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert "a whole run" in done.stderr


def test_a_part_that_is_none_is_told() -> None:
    """Before anything is measured."""
    line = [sys.executable, "-m", "lab.bench_deployer", "weather"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "there is no part weather" in done.stderr
