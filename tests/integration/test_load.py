"""Whatever others do at the app socket, the application with a grant is answered."""

from __future__ import annotations

import pytest

from tests.integration.load import APPLICATION, KINDS, OTHER, STRANGER, Crowded, measure, result

pytestmark = pytest.mark.long

MAX_GROWN = 64_000_000
"""Bytes: a thousand connections take about 5 kB each; what is far more is a leak."""


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "nobody"])
def test_the_application_is_answered(kind: str) -> None:
    """Every read of it, whether on a kept or a new connection; memory is bounded."""
    outcome = measure(kind, 3.0)
    print(f"{KINDS[kind].words}: {outcome}; they: {outcome.others}")  # noqa: T201  # pytest -rP shows it
    assert set(outcome.answers) == {"200"}
    # it is answered, each time within the 20 s that the client waits; how often is a matter of the machine
    assert outcome.answers["200"] >= 4
    assert outcome.grown < MAX_GROWN
    assert kind == "slow" or outcome.others


def test_strangers_can_not_take_all_connections() -> None:
    """However many uids they have, they share a quarter; the rest get 503 and when to come back."""
    with Crowded("") as crowded:
        strangers = [crowded.start("hold", STRANGER + n, 4, 300) for n in range(3)]
        for ungranted in strangers:
            assert ungranted.stdout is not None
            assert ungranted.stdout.readline() == b"held\n"
        assert crowded.agent.status()["connections"]["app"] == 256
        own = result(crowded.start("application", APPLICATION, 0.5))
        assert set(own["answers"]) == {"200"}
        told = [result(ungranted) for ungranted in strangers]
    assert sum(one["answers"].get("403", 0) for one in told) == 256
    assert sum(one["answers"].get("503", 0) for one in told) == 3 * 300 - 256
    assert all(one["crowdedSaysWhen"] for one in told if "503" in one["answers"])


def test_one_uid_can_not_take_all_connections() -> None:
    """Nor can one that a grant names: connections_per_uid leaves the other half."""
    with Crowded("") as crowded:
        other = crowded.start("hold", OTHER, 4, 1000)
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        own = result(crowded.start("application", APPLICATION, 0.5))
        assert set(own["answers"]) == {"200"}
        assert result(other)["answers"] == {"200": 512, "503": 488}
