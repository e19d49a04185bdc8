"""lab/soak/judging.py: what is flat, and what a warning's reason is."""

from __future__ import annotations

import random

import pytest

from lab.soak.judging import Fault, at_rest, trend, unexplained

TIMES = [float(second) for second in range(1800)]


def noise(seed: int = 1) -> list[float]:
    """Return what a flat run's memory is like: small steps, and a spike at each fault."""
    draw = random.Random(seed)
    return [40 + draw.uniform(0, 0.2) + (8 if second % 300 < 10 else 0) for second in range(1800)]


@pytest.mark.parametrize(
    ("leak", "flat"),
    [(0.0, True), (0.0004, True), (0.001, False), (-0.01, True)],
)
def test_a_leak_shows_through_noise_and_spikes(leak: float, flat: bool) -> None:  # noqa: FBT001  # a parameter
    """MB a second: 0.001 is 1.4 MB over the judged part of half an hour."""
    verdict = trend("resident", 1.0, TIMES, [value + leak * k for k, value in enumerate(noise())])
    assert verdict.is_flat is flat
    assert ("NOT FLAT" in str(verdict)) is not flat


def test_the_warm_up_is_not_judged() -> None:
    """What is made once at the start is no leak."""
    values = [20 + min(k, 300) / 30 for k in range(1800)]
    assert trend("resident", 1.0, TIMES, values).growth == 0.0
    assert trend("resident", 1.0, TIMES[:400], values[:400]).growth > 1.0


def test_at_rest_one_descriptor_more_is_one_too_many() -> None:
    """The least counts, since a cycle may be under way; fewer than before is well."""
    assert at_rest("descriptors", [12, 16, 12], [16, 12, 14]).is_flat
    assert not at_rest("descriptors", [12, 16, 12], [16, 13, 14]).is_flat
    assert at_rest("descriptors", [12], [11]).is_flat


def test_a_warning_needs_a_fault_that_says_it_at_its_time() -> None:
    """Neither another fault nor another time will do; what is no warning needs none."""
    faults = [Fault("down", 10.0, 20.0, "connection failed")]
    lines = [
        (15.0, "warning: connection failed: to read; next attempt in 2 s"),
        (24.0, "fetch: ERROR: connection failed: to read"),
        (30.0, "warning: connection failed: to read; next attempt in 2 s"),
        (16.0, "warning: secret A is served no more: it has expired"),
        (99.0, "info: stopping"),
        (99.0, "fetch: INFO: 7 entries; an error: none"),
    ]
    assert unexplained(lines, faults, 5.0) == [lines[2][1], lines[3][1]]
