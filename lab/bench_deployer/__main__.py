"""``make bench-deployer``: what the deployer costs, beside what was promised.

``--write`` keeps what was measured: the table of docs/figures.md, the bill in docs/rollout.md, and the costs
of each act in lab/fleet/deployer.json, from which ``make fleet`` goes on.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lab.bench import report
from lab.bench_deployer import acts, cloud, dashboard, database, money, revocation
from lab.bench_deployer.figures import table

if TYPE_CHECKING:
    from collections.abc import Callable

    from lab.bench_deployer.figures import Figure

DOCS: Final = Path(__file__).parents[2] / "docs"
MARKS: Final = (
    "<!-- make bench-deployer WRITE=1: begin -->",
    "<!-- make bench-deployer WRITE=1: end -->",
)
PARTS: Final[dict[str, Callable[[], list[Figure]]]] = {
    "database": database.measure,
    "dashboard": dashboard.measure,
    "acts": acts.measure,
    "fake": cloud.fake,
    "real": cloud.real,
    "revocation": revocation.measure,
}
QUICK: Final[dict[str, Callable[[], list[Figure]]]] = {
    "database": lambda: database.measure(database.SMALL),
    "dashboard": lambda: dashboard.measure(200, 2),
    "acts": lambda: acts.measure(3),
    "fake": lambda: cloud.fake(cloud.QUICK),
    "real": lambda: cloud.real(cloud.QUICK),
    "revocation": lambda: revocation.measure(5),
}


def main() -> int:
    """Measure the parts that are named, or all. The result tells whether every promise is kept."""
    parser = argparse.ArgumentParser(prog="bench-deployer", description=__doc__)
    parser.add_argument("part", nargs="*", help=f"{', '.join(PARTS)}; default: all")
    parser.add_argument("--quick", action="store_true", help="on little, to see that it works; no promises")
    parser.add_argument("--write", action="store_true", help="keep it in docs/ and lab/fleet/deployer.json")
    arguments = parser.parse_args()
    named = arguments.part
    unknown = [part for part in named if part not in PARTS]
    if unknown:
        parser.error(f"there is no part {', '.join(unknown)}")
    if arguments.write and (named or arguments.quick):
        parser.error("--write keeps a whole run: name no part, and not --quick")
    load, began, found = os.getloadavg()[0], time.monotonic(), []
    for part in named or PARTS:
        for figure in (QUICK if arguments.quick else PARTS)[part]():
            print(figure, flush=True)
            found.append(figure)
    if arguments.write:
        _write(found, load, time.monotonic() - began)
    return 0 if arguments.quick or all(figure.holds for figure in found) else 1


def _write(found: list[Figure], load: float, seconds: float) -> None:
    """Renew the documents. The first line says on what machine, and how busy it was."""
    acts.keep()
    system = platform.freedesktop_os_release()["PRETTY_NAME"]
    machine = (
        f"{system}; Python {platform.python_version()}; {os.cpu_count()} cores; load before and after the "
        f"run: {load:.1f}, {os.getloadavg()[0]:.1f}; it took {seconds / 60:.0f} minutes.\n\n"
    )
    _renew(DOCS / "figures.md", machine + table(found), MARKS)
    _renew(DOCS / "rollout.md", money.table(acts.kept()), (money.BEGIN, money.END))


def _renew(document: Path, text: str, marks: tuple[str, str]) -> None:
    document.write_text(report.replaced(document.read_text(), text, marks))


if __name__ == "__main__":
    sys.exit(main())
