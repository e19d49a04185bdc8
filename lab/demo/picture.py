"""A picture of the demo: ``python -m lab.demo.picture docs/demo.svg`` runs it and draws what it said.

With a second argument it draws what a run has said before, from that file. It shows what a newcomer wants to
see: the parts of :data:`PARTS`, without times, which are another machine's. Its ground is dark and its own:
readable on a light and on a dark page.
"""

from __future__ import annotations

import re
import subprocess
import sys
from html import escape
from pathlib import Path
from typing import Final

COLUMNS: Final = 80
CHARACTER: Final = 7.8
"""Width of one character of 13 px, in px."""
LINE: Final = 18
MARGIN: Final = 16
TITLE, STEP, RESULT = "#7ee787", "#e6edf3", "#9fb1c5"
PARTS: Final = (
    "The agent: from Barbican to the application's socket",
    "Barbican goes away: the application is served on",
    "The deployer: a portal presses Deploy, and no person sees a secret",
    "A rotation comes due: nobody does anything",
    "A database password rotates while a client works",
    "Barbican loses all of its data",
)
"""The titles of what is shown."""
LEFT_OUT: Final = (
    "vps-new-002",
    "calls to Keystone",
    "whose data are lost",
    "agent to refresh",
    "next attempt",
)
"""Lines with these words are not shown, and neither is what such a step led to."""
STEP_LINE: Final = re.compile(r"^\[ *[\d.]+ s\]  (.*?) +[\d.]+ s$")


def cut(output: str) -> str:
    """Return what the picture shows of the demo's output: its parts, each step without its times."""
    shown = []
    for part in output.strip().split("\n\n"):
        title, *lines = part.splitlines()
        if title not in PARTS:
            continue
        shown += ["", title]
        keeping = True
        for line in lines:
            step = STEP_LINE.match(line)
            if step or any(words in line for words in LEFT_OUT):
                keeping = not any(words in line for words in LEFT_OUT)
            if keeping:
                shown.append(f"  {step[1]}" if step else f"    {line.strip()}")
    return "\n".join(
        [*shown, "", "and more: other VPSs are refused, one is revoked, a deleted secret comes back"]
    )


def draw(output: str) -> str:
    """Return the lines of an output as SVG."""
    lines = ["$ make demo", *output.splitlines()]
    height = len(lines) * LINE + 2 * MARGIN
    width = round(COLUMNS * CHARACTER) + 2 * MARGIN
    rows = [
        f'<text x="{MARGIN}" y="{MARGIN + (number + 1) * LINE - 5}" fill="{_color(line)}"'
        f' textLength="{len(line) * CHARACTER:.1f}" xml:space="preserve">{escape(line)}</text>'
        for number, line in enumerate(lines)
        if line
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}"'
        f' height="{height}" font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" font-size="13">\n'
        f'<rect width="{width}" height="{height}" rx="8" fill="#0d1117" stroke="#6e7681"/>\n'
        + "\n".join(rows)
        + "\n</svg>\n"
    )


def _color(line: str) -> str:
    if line.startswith("    "):
        return RESULT
    return STEP if line.startswith(" ") else TITLE


def main() -> None:
    """Write the picture to the file that the command line names."""
    picture, *before = map(Path, sys.argv[1:])
    if before:
        output = before[0].read_text()
    else:
        output = subprocess.check_output([sys.executable, "-m", "lab.demo"], text=True)
    picture.write_text(draw(cut(output)))


if __name__ == "__main__":
    main()
