"""``python -m lab.bench.join [--boots 20] [--debian NAME]``: from boot to the first served secret, by step.

Each boot is a new VPS, as a cloud boots it: cloud-init with the user data that the deployer has made, the
package, nothing else; Keystone, Barbican and the deployer are real, with the times that are shipped. As root,
after scripts/rootfs, scripts/rootfs-cloud and scripts/deb. Times are of the machine's journal, from the start
of its process 1 on; each step is from the end of the one before. It ends with 1 where the slowest boot took
more than what is promised.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lab.bench.tools import BUILD, progress
from lab.testbed import first_boot
from lab.testbed.cloud import Cloud
from lab.testbed.machine import Machine

if TYPE_CHECKING:
    from lab.testbed.site import Site

MOST_S: Final = 60.0
WITHIN_S: Final = 600.0
STEPS: Final = {
    "systemd and cloud-init, until join begins": "join           ",
    "the one-time password is changed": "claim          done",
    "the deployer lets it in": "let in         ",
    "its key is announced": "key            ",
    "its application credential is made": "credential     ",
    "its configuration is in force": "configuration  ",
    "the application has its first secret": first_boot.HAS_IT,
}
"""What is told, and how the line of the journal begins that ends it."""


def boot(site: Site, rootfs: Path, layer: Path, vps_id: str) -> list[float]:
    """Boot one VPS; return when each step had ended (s since its process 1 was started)."""
    claimed = first_boot.claimed(site, vps_id)
    began = time.time()
    with Machine(rootfs, first_boot.attached(claimed.user_data), layer=layer) as machine:
        machine.until_said(first_boot.HAS_IT, seconds=WITHIN_S)
        lines = [
            (float(entry["__REALTIME_TIMESTAMP"]) / 1e6 - began, str(entry.get("MESSAGE")))
            for entry in machine.journal()
        ]
    return [min(at for at, line in lines if line.startswith(begin)) for begin in STEPS.values()]


def row(what: str, took: list[float]) -> str:
    """Return a line of the table."""
    ordered = sorted(took)
    p99 = ordered[min(len(ordered) - 1, round(0.99 * len(ordered)))]
    return f"| {what} | {statistics.median(ordered):.1f} s | {p99:.1f} s | {ordered[0]:.1f} s |"


def main() -> int:
    """Measure, and print what docs/figures.md has."""
    parser = argparse.ArgumentParser(prog="lab.bench.join", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--boots", type=int, default=20)
    parser.add_argument("--debian", default="bookworm", choices=("bookworm", "trixie"))
    options = parser.parse_args()
    rootfs = (BUILD / "rootfs" / f"{options.debian}-cloud").resolve()
    (deb,) = (BUILD / "deb").glob("vps-secrets-agent_*_all.deb")
    found: list[list[float]] = []
    with (
        tempfile.TemporaryDirectory(prefix="vsa-bench-") as place,
        Cloud() as cloud,
        first_boot.image(rootfs, deb) as layer,
        first_boot.site(cloud, Path(place)) as site,
    ):
        site.serve(first_boot.BLUEPRINT)
        for number in range(options.boots):
            progress(f"boot {number + 1} of {options.boots}")
            found.append(boot(site, rootfs, layer, f"vps-bench-{number:03}"))
    print(f"{options.debian}: {options.boots} boots, load {os.getloadavg()[0]:.0f}.\n")
    print("| step | p50 | p99 | least |\n|---|---|---|---|")
    for number, what in enumerate(STEPS):
        print(row(what, [one[number] - (one[number - 1] if number else 0.0) for one in found]))
    total = [one[-1] for one in found]
    print(row("**from boot to the first served secret**", total))
    return int(max(total) > MOST_S)


if __name__ == "__main__":
    sys.exit(main())
