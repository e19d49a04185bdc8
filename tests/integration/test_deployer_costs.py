"""What is said about the deployer's costs is what it does: calls of each act, and the bill of a month."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lab.bench import report
from lab.bench_deployer import acts, money

DOCUMENT = Path(__file__).parents[2] / "docs/rollout.md"


def test_calls_are_as_they_were_when_they_were_measured(tmp_path: Path) -> None:
    """Whoever changes what an act asks of Barbican measures again: ``make bench-deployer WRITE=1``."""
    found = acts.costs(f"sqlite:///{tmp_path}/deployer.db", 2)
    assert {name: cost.calls for name, cost in found.items()} == {
        name: cost.calls for name, cost in acts.kept().items()
    }
    assert found["arrival look"].calls == found["quiet look"].calls == 1


def test_the_bill_in_the_documents_is_the_one_that_is_computed() -> None:
    """And it is below what was promised."""
    document = DOCUMENT.read_text()
    wanted = report.replaced(document, money.table(acts.kept()), (money.BEGIN, money.END))
    assert document == wanted, "renew it: make bench-deployer WRITE=1"
    assert money.total(acts.kept())[1] < money.LIMIT_EUR


@pytest.mark.parametrize(("arrives_s", "looks"), [(0.0, 0), (4.0, 1), (15.0, 3), (33.0, 5), (900.0, 14)])
def test_looks_for_an_arrival_grow_rarer(arrives_s: float, looks: int) -> None:
    """Each comes when what is listed is half as old again."""
    assert money.arrival_looks(arrives_s) == looks


def test_more_calls_are_a_higher_bill() -> None:
    """The bill can fail: a look every hour that asks for everything would cost too much."""
    costs = acts.kept()
    dear = costs | {"quiet look": replace(costs["quiet look"], calls=8.0)}
    assert money.total(dear)[1] > money.LIMIT_EUR
