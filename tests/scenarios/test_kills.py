"""The agent killed at every step of a cycle. `make scenarios` has the longer run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.scenarios import kill_loop

if TYPE_CHECKING:
    from lab.testbed.cloud import Cloud


def test_killed_while_a_pair_rotates(cloud: Cloud) -> None:
    """Agent killed at any moment, while a pair rotates: no value is wrong, torn, mixed, set back or lost."""
    counted = kill_loop.play(cloud, kills=60, seed=4)
    assert counted["serve"] > 20
    assert counted["serve in a cycle"] > 2
    assert counted["generations"] > 1
