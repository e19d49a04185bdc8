"""A part that is away: a line at once, one a minute, one at its end."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from deployer.outage import AGAIN_S, QUIET_S, Outage

if TYPE_CHECKING:
    import pytest


def test_an_outage_is_told_once_a_minute(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, then each minute with how long it has been, another reason at once, and its end."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    outage = Outage(logging.getLogger("test"), "it")
    outage.answered()
    for _ in range(100):
        outage.failed(OSError("away."), 2.0)
        now[0] += 2.0
    assert len(caplog.messages) == 1 + 198 // AGAIN_S
    assert caplog.messages[0] == "away. Tried again every 2 s"
    assert "it has been so for" in caplog.messages[-1]
    outage.failed(OSError("full."), 2.0)
    assert caplog.messages[-1].startswith("full.")
    said = len(caplog.messages)
    outage.answered()
    assert len(caplog.messages) == said, "another one may fail still"
    now[0] += QUIET_S
    outage.answered()
    outage.answered()
    assert caplog.messages[said:] == ["it answers again; it was away for 3 min"]
