"""Compares the lines that tests reached with floors: ``python -m lab.floors COVERAGE.json [--raise]``.

Each file has its own, in floors.json: per cent of its lines, rounded down. A file without one needs ``NEW``.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any, Final

FLOORS: Final = Path(__file__).with_name("floors.json")
NEW: Final = 90
"""What a new file needs, in per cent; one that only integration tests reach gets a floor of its own."""
SLACK: Final = 2
"""Properties draw other examples in each run, and reach a line more or less."""


def reached(report: dict[str, Any]) -> dict[str, int]:
    """Return file → per cent of its lines that were reached, rounded down, from coverage's JSON report."""
    files = report["files"].items()
    return {path: math.floor(of["summary"]["percent_covered"]) for path, of in files}


def sunk(floors: dict[str, int], now: dict[str, int]) -> list[str]:
    """Return a line for each file that is below its floor."""
    wanted = {path: floors.get(path, NEW) for path in now}
    return [
        f"{path}: {now[path]} % of its lines are reached by tests, {least} % is its floor"
        for path, least in sorted(wanted.items())
        if now[path] + SLACK < least
    ]


def raised(floors: dict[str, int], now: dict[str, int]) -> dict[str, int]:
    """Return the floors with what is reached now, where it is more; files that are gone are left out."""
    return {path: max(floors.get(path, 0), now[path]) for path in sorted(now)}


def main() -> int:
    """Run the comparison; the exit status is 1 where a file is below its floor."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path)
    parser.add_argument("--raise", action="store_true", dest="raise_them", help="write higher floors")
    options = parser.parse_args()
    now = reached(json.loads(options.report.read_text()))
    floors: dict[str, int] = json.loads(FLOORS.read_text())
    if options.raise_them:
        floors = raised(floors, now)
        FLOORS.write_text(json.dumps(floors, indent=1) + "\n")
    below = sunk(floors, now)
    print("\n".join(below) or f"coverage: {len(now)} files, each at its floor or above")
    return 1 if below else 0


if __name__ == "__main__":
    raise SystemExit(main())
