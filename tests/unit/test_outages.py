"""docs/outages.md promises what the scenarios prove, in the same words."""

from __future__ import annotations

from tests.scenarios import promises


def test_the_document_has_every_promise() -> None:
    """Write it anew with: python -m tests.scenarios.promises."""
    assert promises.table() in promises.DOCUMENT.read_text()
    assert len(promises.promises()) > 20


def test_every_scenario_is_in_the_order() -> None:
    """No file of scenarios is left out."""
    files = {path.stem for path in (promises.ROOT / "tests/scenarios").glob("test_*.py")} | {"long_days"}
    assert files == set(promises.ORDER)
