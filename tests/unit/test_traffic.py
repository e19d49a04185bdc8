"""What the doors count: who was served what for the first time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.serve.http.traffic import MAX_READERS, Traffic

if TYPE_CHECKING:
    import pytest


def test_a_caller_s_first_read_of_each_name_counts_once() -> None:
    """By door, by uid or unit."""
    traffic = Traffic()
    for _ in range(3):
        traffic.served("app", 1000, ["A", "B"])
    traffic.served("app", 1001, ["A"])
    traffic.served("credentials", "app.service", ["A"])
    assert traffic.first_reads == {"app": 3, "credentials": 1}


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the bound each read counts as new: too many alarms rather than none."""
    monkeypatch.setattr("agent.serve.http.traffic.MAX_READERS", 1)
    traffic = Traffic()
    for _ in range(2):
        traffic.served("app", 1000, ["A", "B"])
    assert traffic.first_reads == {"app": 3}
    assert MAX_READERS > 1000
