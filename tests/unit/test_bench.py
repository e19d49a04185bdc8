"""lab/bench/{results,report}.py: ratios within a round, goals, and what a document keeps of itself."""

from __future__ import annotations

import json

import pytest

from lab.bench import report
from lab.bench.results import (
    AGENT,
    BAO,
    BAO_KV,
    BAO_TOKEN,
    FLOOR,
    MODES,
    Goal,
    Memory,
    Part,
    Read,
    Results,
    goals,
    percentile,
    ratios,
)

KEPT = MODES[0]


def reads(*rates: float) -> list[Read]:
    """Return rounds with these rates."""
    return [Read(rate, 1e-6, 2e-6) for rate in rates]


def found(results: Results, text: str) -> Goal:
    """Return the one goal whose text has this in it."""
    (goal,) = (goal for goal in goals(results) if text in goal.text)
    return goal


def test_a_ratio_is_taken_within_its_round() -> None:
    """A slow moment of the machine hits both."""
    found = {AGENT: reads(10, 1, 10), FLOOR: reads(20, 2, 20)}
    assert ratios(found, AGENT, FLOOR) == [0.5, 0.5, 0.5]
    assert ratios(found, AGENT, BAO_KV) is None


def test_goals_are_reached_missed_or_left_out() -> None:
    """A peer that was not there is neither a success nor a failure."""
    results = Results(
        reads={KEPT: {AGENT: reads(50, 50), BAO_KV: reads(10, 10), BAO_TOKEN: reads(51, 51)}},
        memory={AGENT: Memory(60.0, None, None), BAO: Memory(100.0, None, None)},
        wakeups={AGENT: 2.0},
    )
    assert found(results, "KV secret").reached is True
    assert found(results, "cached token") == Goal(
        "kept alive, 1 client: rate over OpenBao agent, cached token's",
        "at least 1 times",
        "0.98 times",
        reached=False,
    )
    assert found(results, FLOOR).reached is None
    assert found(results, "resident memory over OpenBao").reached is True
    assert found(results, "wake-ups").reached is False


@pytest.mark.parametrize(
    ("share", "wanted"), [(0.0, 1.0), (0.01, 1.0), (0.5, 50.0), (0.99, 99.0), (0.995, 100.0), (1.0, 100.0)]
)
def test_a_percentile_is_a_value_that_came(share: float, wanted: float) -> None:
    """The least that at least this share does not exceed."""
    assert percentile([float(n) for n in range(100, 0, -1)], share) == wanted


def test_all_that_was_found_is_in_the_tables_and_in_the_json() -> None:
    """What was left out and what was missed too."""
    results = Results(
        machine={"System": "Debian"},
        left_out={"custodia": "it is not here; fix it with: this"},
        reads={KEPT: {AGENT: reads(50, 60), FLOOR: reads(100, 100)}},
        memory={AGENT: Memory(60.0, 30.0, None)},
        parts=[Part("a start", "s", (0.5,) * 20), Part("imports", "s", (0.25, 0.5), of="a start")],
    )
    text = report.markdown(results)
    assert "**Left out: custodia.** It is not here; fix it with: this." in text
    assert "| left out |" in text
    assert "| 0.55 " in text
    assert "500.0 ms" in text
    assert "· imports" in text
    content = json.loads(json.dumps(report.as_json(results)))
    assert content["reads"]["kept alive, 1 client"][AGENT][1]["rate"] == 60
    assert content["parts"][1]["values"] == [0.25, 0.5]


def test_a_document_keeps_what_is_around_the_tables() -> None:
    """A document without marks is refused."""
    document = f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n"
    assert report.replaced(document, "new\n") == f"before\n{report.BEGIN}\nnew\n{report.END}\nafter\n"
    with pytest.raises(SystemExit):
        report.replaced("no marks", "new\n")
