"""The picture of the deployer's days, from the JSON of ``python -m lab.fleet --deployer --json``.

    draw_deployer.py RUNS.json PICTURE.png

Runs in build/draw-venv. A row for each of the days: calls to Barbican by what they are for, hour by hour.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt

COLOURS = {
    "quiet look": "#90cdf4",
    "daily look": "#2b6cb0",
    "arrival look": "#9ae6b4",
    "rotation": "#2f855a",
    "clean-up": "#d69e2e",
}
CAPACITY = "#c53030"


def row(axes: Any, run: dict[str, Any]) -> None:
    """Draw one of the days."""
    hours = run["hours"]
    parts = [[hour[act] for hour in hours] for act in COLOURS]
    axes.stackplot(
        range(len(hours)),
        *parts,
        labels=list(COLOURS),
        colors=list(COLOURS.values()),
        step="post",
        linewidth=0,
    )
    axes.axhline(run["capacity"], color=CAPACITY, linewidth=1.2, label="what the workers may ask")
    begin, end = (moment / 3600 for moment in run["away"])
    if end:
        axes.axvspan(begin, end, color="#edf2f7", zorder=0)
        axes.text((begin + end) / 2, run["capacity"] / 2, "away", ha="center", fontsize=8)
    axes.set_xlim(0, len(hours) - 1)
    axes.set_ylim(0, 1.15 * run["capacity"])
    axes.set_xticks(range(0, len(hours), 12))
    axes.set_ylabel("calls/s", fontsize=8)
    axes.set_title(f"{run['vps']:,} VPSs of seven secrets: {run['text']}", fontsize=9, loc="left")


def main() -> None:
    """Draw all rows below each other."""
    source, target = (Path(word) for word in sys.argv[1:3])
    runs = json.loads(source.read_text())
    figure, axes = plt.subplots(len(runs), 1, figsize=(9, 2.3 * len(runs)), constrained_layout=True)
    for one, run in zip(axes, runs, strict=True):
        row(one, run)
    axes[0].legend(fontsize=7, ncols=3, loc="upper right")
    axes[-1].set_xlabel("hours", fontsize=8)
    figure.savefig(target, dpi=110)


if __name__ == "__main__":
    main()
