"""The scenarios' promises, from their docstrings: ``python -m tests.scenarios.promises`` writes the table.

A docstring is ``The scenario: promise.``; tests/unit/test_outages.py holds docs/outages.md to it.
"""

from __future__ import annotations

import ast
import itertools
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "outages.md"
HEADING = "| scenario | promise | proved by |\n|---|---|---|\n"
ORDER = (
    "test_outages",
    "test_faults",
    "test_access",
    "test_expiry",
    "test_rotations",
    "test_kills",
    "long_days",
)


def promises() -> list[tuple[str, str, str]]:
    """Return (day, promise, where it is proved) of every scenario."""
    found = []
    for name in ORDER:
        tree = ast.parse((Path(__file__).parent / f"{name}.py").read_text())
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                day, colon, promise = (ast.get_docstring(node) or "").partition(": ")
                assert colon, f"{name}.{node.name} does not say in which scenario it promises what"
                found.append(
                    (day, promise.removesuffix("."), f"`{name}.py` {node.name.removeprefix('test_')}")
                )
    return found


def table() -> str:
    """Return the table as Markdown."""
    return HEADING + "".join(f"| {' | '.join(row)} |\n" for row in promises())


def main() -> None:
    """Write the table into the document, in the place of the one that is there."""
    before, _, rest = DOCUMENT.read_text().partition(HEADING)
    after = itertools.dropwhile(lambda line: line.startswith("|"), rest.splitlines(keepends=True))
    DOCUMENT.write_text(before + table() + "".join(after))


if __name__ == "__main__":
    main()
