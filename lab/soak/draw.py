"""The picture of a soak, from the JSON of ``python -m lab.soak --json``; runs in build/draw-venv.

    draw.py RUN.json PICTURE.png

One row for each thing that was sampled, the faults as bars across all of them.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

from matplotlib import pyplot as plt
from PIL import Image

ROWS = (
    ("memory, MB", ("resident", "anonymous")),
    ("descriptors", ("descriptors",)),
    ("tasks, watchers", ("tasks", "watchers")),
    ("threads, children", ("threads", "children")),
    ("generation", ("generation",)),
)
COLOURS = ("#2b6cb0", "#dd6b20")
FAULT = "#e2e8f0"


def main(source: str, target: str) -> None:
    """Draw a run."""
    run = json.loads(Path(source).read_text())
    samples = run["samples"]
    minutes = [row["time"] / 60 for row in samples]
    figure, rows = plt.subplots(len(ROWS), 1, figsize=(11, 1.55 * len(ROWS)), sharex=True)
    for axes, (title, names) in zip(rows, ROWS, strict=True):
        for _, begin, end in run["faults"]:
            axes.axvspan(begin / 60, end / 60, color=FAULT, linewidth=0)
        for name, colour in zip(names, COLOURS, strict=False):
            axes.plot(minutes, [row[name] for row in samples], color=colour, linewidth=0.8, label=name)
        axes.set_ylim(0, 1.15 * max(row[name] for row in samples for name in names))
        axes.set_ylabel(title, fontsize=8)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
        if len(names) > 1:
            axes.legend(fontsize=7, loc="lower right", ncols=2)
    rows[0].set_title(
        f"{minutes[-1]:.0f} minutes; grey: a service is down or hangs, or a bad reload", fontsize=9
    )
    rows[-1].set_xlabel("minutes", fontsize=8)
    rows[-1].set_xlim(0, minutes[-1])
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=80)
    Image.open(buffer).convert("RGB").quantize(48).save(target, optimize=True)  # a small file


if __name__ == "__main__":
    main(*sys.argv[1:])
