"""The picture of a fleet's days, from the JSON of ``python -m lab.fleet --json``; runs in build/draw-venv.

    draw.py RUNS.json PICTURE.png [CALLS]

A row for each scenario: left, the load on Barbican around its cause against its capacity, with the share of
the fleet that is served; right, the hours after.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from PIL import Image

LOAD, SERVED, CAPACITY, REFUSED = "#2b6cb0", "#2f855a", "#c53030", "#cbd5e0"


def binned(values: list[int], width: int) -> tuple[list[float], list[float]]:
    """Return middles (s) and means per second of windows of some seconds."""
    starts = range(0, len(values) - width + 1, width)
    return [start + width / 2 for start in starts], [sum(values[s : s + width]) / width for s in starts]


def event(axes: Any, run: dict[str, Any]) -> None:
    """Draw the minutes around the cause."""
    at, summary = run["at"], run["summary"]
    width = max(420.0, 1.25 * summary["last"])
    begin, end = max(0.0, at - 0.25 * width), at + width
    times, load = binned(run["load"], 2)
    refused = binned(run["refused"], 2)[1]
    answered = [a - b for a, b in zip(load, refused, strict=True)]
    times = [time - at for time in times]
    axes.fill_between(times, answered, color=LOAD, alpha=0.75, linewidth=0, step="mid", label="requests/s")
    if any(refused):
        axes.fill_between(
            times, answered, load, color=REFUSED, linewidth=0, step="mid", label="of them refused"
        )
    axes.axhline(run["capacity"], color=CAPACITY, linewidth=1.2, label="capacity")
    axes.set_xlim(begin - at, end - at)
    top = max([run["capacity"], *load[int(begin / 2) : int(end / 2)]])
    axes.set_ylim(0, 1.12 * top)
    share = axes.twinx()
    share.plot(
        [t - at for t, _ in run["served"]], [100 * s for _, s in run["served"]], color=SERVED, linewidth=1.6
    )
    share.set_ylim(0, 112)
    share.set_yticks([0, 50, 100])
    share.tick_params(axis="y", colors=SERVED, labelsize=7)
    share.set_ylabel("served, %", color=SERVED, fontsize=8)
    axes.set_ylabel("requests/s", fontsize=8)
    axes.set_title(
        f"{run['text']}: {run['vps']:,} VPSs, {run['calls']} calls each; last after {summary['last']:.0f} s",
        fontsize=9,
        loc="left",
    )


def afterwards(axes: Any, run: dict[str, Any]) -> None:
    """Draw the hours after."""
    waves = run["summary"]["waves"]
    times, load = binned(run["load"], 10)
    settled = run["at"] + 1200
    points = [((t - run["at"]) / 3600, value) for t, value in zip(times, load, strict=True) if t >= settled]
    axes.plot(*zip(*points, strict=True), color=LOAD, linewidth=0.6)
    axes.axhline(waves["mean"] * waves["chance_10"], color="#718096", linewidth=0.9, linestyle="--")
    axes.set_ylim(0, 1.15 * max(2 * waves["mean"], *(value for _, value in points)))
    axes.set_ylabel("requests/s in 10 s", fontsize=8)
    axes.set_title(
        f"hours after: peak {waves['peak_10']:.2f} times the mean (chance: {waves['chance_10']:.2f})",
        fontsize=9,
        loc="left",
    )


def main(source: str, target: str, *calls: str) -> None:
    """Draw the runs with so many calls a start, or all."""
    runs = [run for run in json.loads(Path(source).read_text()) if not calls or str(run["calls"]) in calls]
    figure, rows = plt.subplots(
        len(runs), 2, figsize=(12, 2.15 * len(runs)), gridspec_kw={"width_ratios": [1.35, 1]}, squeeze=False
    )
    for (left, right), run in zip(rows, runs, strict=True):
        event(left, run)
        afterwards(right, run)
        for axes in (left, right):
            axes.tick_params(labelsize=7)
            axes.spines[["top"]].set_visible(False)
    rows[-1][0].set_xlabel("seconds from the cause", fontsize=8)
    rows[-1][1].set_xlabel("hours from the cause; dashed: the highest that chance alone gives", fontsize=8)
    named: dict[str, Any] = {}
    for left in rows[:, 0]:
        handles, names = left.get_legend_handles_labels()
        named |= dict(zip(names, handles, strict=True))
    figure.legend(named.values(), named.keys(), fontsize=8, loc="upper left", frameon=False, ncols=3)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.25 / figure.get_figheight()))
    save(figure, target)


def save(figure: Any, target: str) -> None:
    """Write a figure as a small file: few colours are as many as it has."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=80)
    Image.open(buffer).convert("RGB").quantize(48).save(target, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
