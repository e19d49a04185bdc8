"""Draws the comparison of one run: ``draw.py RESULTS.json PICTURE.png``, with build/draw-venv.

A picture of its own background, so that it reads the same on light and dark pages.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt  # after the choice of the back end
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, NullFormatter

if TYPE_CHECKING:
    from collections.abc import Sequence

AGENT: Final = "agent"
OURS, PEER, FLOOR, INK, FAINT = "#0f766e", "#7b8aa0", "#c9d1db", "#1f2933", "#66727f"
KEPT, FRESH = "kept alive, 1 client", "connect + read + close, 1 client"
MICRO: Final = 1e6
LABELS: Final = {
    AGENT: "vps-secrets-agent",
    "OpenBao agent, cached token": "OpenBao agent\ncached token",
    "OpenBao agent, KV secret": "OpenBao agent\nKV secret",
    "nginx, static file": "nginx\nstatic file",
    "C floor": "C, epoll\nconstant bytes",
    "aiohttp floor": "aiohttp\nconstant bytes",
    "bare import of aiohttp.web": "Python that\nimports aiohttp.web",
}


def colour(name: str) -> str:
    """Return what a server is drawn in."""
    if name == AGENT:
        return OURS
    return FLOOR if "floor" in name or "import" in name else PEER


def middle(rounds: Sequence[dict[str, float]], key: str) -> float:
    """Return the median of one figure over the rounds."""
    return statistics.median(one[key] for one in rounds)


def names_on(axes: Any, names: Sequence[str]) -> None:
    """Write the servers' names at the left."""
    axes.set_yticks(range(len(names)), [LABELS.get(name, name) for name in names])
    for label, name in zip(axes.get_yticklabels(), names, strict=True):
        label.set_color(OURS if name == AGENT else INK)
        label.set_fontweight("bold" if name == AGENT else "normal")
    axes.set_ylim(len(names) - 0.4, -0.6)


def rates(axes: Any, reads: dict[str, Any], title: str) -> None:
    """Draw reads a second, fastest first, with the agent's multiple of each (within the rounds)."""
    names = sorted(reads, key=lambda name: -middle(reads[name], "rate"))
    found = [middle(reads[name], "rate") for name in names]
    for row, (name, rate) in enumerate(zip(names, found, strict=True)):
        shade = colour(name)
        axes.plot([1, rate], [row, row], color=shade, lw=5 if name == AGENT else 3, zorder=2)
        axes.plot([rate], [row], "o", ms=13 if name == AGENT else 10, color=shade, zorder=3)
        axes.text(rate * 1.3, row, f"{rate:,.0f}", va="center", color=INK, fontweight="bold")
        if name != AGENT:
            pairs = zip(reads[AGENT], reads[name], strict=True)
            times = statistics.median(ours["rate"] / theirs["rate"] for ours, theirs in pairs)
            in_column(axes, row, f"{times:.2f}" if times < 10 else f"{times:.0f}")  # noqa: PLR2004
    in_column(axes, -0.75, "agent's\nmultiple")
    axes.set_xscale("log")
    axes.set_xlim(50, max(found) * 14)
    names_on(axes, names)
    axes.set_title(title, loc="left")
    axes.set_xlabel("reads a second, logarithmic: right is better")


def in_column(axes: Any, row: float, text: str) -> None:
    """Write at the right edge."""
    axes.text(1.0, row, text, va="center", ha="right", color=FAINT, transform=axes.get_yaxis_transform())


def latencies(axes: Any, kept: dict[str, Any], fresh: dict[str, Any]) -> None:
    """Draw median and 99th percentile of both ways of reading."""
    names = sorted(fresh, key=lambda name: middle(fresh[name], "p50"))
    for row, name in enumerate(names):
        for reads, offset, filled in ((kept, -0.17, True), (fresh, 0.17, False)):
            if name not in reads:
                continue
            p50, p99 = (middle(reads[name], key) * MICRO for key in ("p50", "p99"))
            shade = colour(name) if name == AGENT or "floor" not in name else "#9aa5b1"
            axes.plot([p50, p99], [row + offset] * 2, color=shade, lw=2.2, solid_capstyle="round", zorder=2)
            face = shade if filled else "white"
            axes.plot([p50], [row + offset], "o", ms=6.5, mfc=face, mec=shade, mew=1.8, zorder=3)
            axes.plot([p99], [row + offset], "|", ms=9, mec=shade, mew=2.2, zorder=3)
    axes.set_xscale("log")
    names_on(axes, names)
    axes.set_title("How long one client waits", loc="left")
    axes.set_xlabel("µs, logarithmic, from median (dot) to 99th percentile (stroke): left is better")
    dot = {"marker": "o", "ls": "", "mec": FAINT, "mew": 1.8}
    marks = [
        Line2D([], [], mfc=FAINT, label="kept alive", **dot),
        Line2D([], [], mfc="white", label="connect + read + close", **dot),
    ]
    axes.legend(handles=marks, loc="upper right", frameon=False)


def memory(axes: Any, found: dict[str, Any]) -> None:
    """Draw resident memory, and how much of it is anonymous: no other process can share that."""
    names = sorted(found, key=lambda name: found[name]["resident"])
    for row, name in enumerate(names):
        resident, anonymous = found[name]["resident"], found[name]["anonymous"]
        axes.barh(row, resident, height=0.62, color=colour(name), alpha=0.5)
        text = f"{resident:.0f}"
        if anonymous is not None:
            axes.barh(row, anonymous, height=0.62, color=colour(name))
            text = f"{resident:.1f}, anonymous {anonymous:.1f}"
        axes.text(resident + 1, row, text, va="center", color=INK)
    axes.set_xlim(0, max(one["resident"] for one in found.values()) * 1.42)
    names_on(axes, names)
    axes.set_title("Memory at rest, 7 secrets held by the agent", loc="left")
    axes.set_xlabel("MiB resident; the darker part is anonymous: shorter is better")
    axes.legend(
        handles=[
            Patch(color=OURS, label="this agent"),
            Patch(color=PEER, label="peers"),
            Patch(color=FLOOR, label="floors"),
        ],
        loc="upper right",
        frameon=False,
    )


def main() -> int:
    """Draw one picture."""
    source, target = map(Path, sys.argv[1:])
    results = json.loads(source.read_text())
    reads = results["reads"]
    plt.rcParams.update(
        {
            "font.size": 9.5,
            "text.color": INK,
            "axes.labelcolor": FAINT,
            "axes.titleweight": "bold",
            "axes.titlesize": 11.5,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.spines.left": False,
            "axes.edgecolor": FLOOR,
            "xtick.color": FAINT,
            "ytick.left": False,
            "axes.grid": True,
            "axes.grid.axis": "x",
            "axes.axisbelow": True,
            "grid.color": "#eef1f5",
        }
    )
    figure, axes = plt.subplots(2, 2, figsize=(13.5, 9.6), facecolor="white", layout="constrained")
    rates(axes[0][0], reads[KEPT], "Reads on a kept connection")
    rates(axes[0][1], reads[FRESH], "Reads with a connection each")
    latencies(axes[1][0], reads[KEPT], reads[FRESH])
    memory(axes[1][1], results["memory"])
    for one in (*axes[0], axes[1][0]):
        one.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        one.xaxis.set_minor_formatter(NullFormatter())
    figure.suptitle(
        "One secret over a Unix socket: the agent, with grant check and audit record, beside its peers",
        fontsize=14.5,
        fontweight="bold",
        x=0.012,
        ha="left",
    )
    machine = results["machine"]
    figure.supxlabel(
        f"One run of make bench: {machine['system']}, {machine['cores']} cores, "
        f"{machine['rounds']}, in turn; server and client share one core; medians.",
        fontsize=8.5,
        color=FAINT,
        x=0.012,
        ha="left",
    )
    figure.savefig(target, dpi=110)
    return 0


if __name__ == "__main__":
    sys.exit(main())
