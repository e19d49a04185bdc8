"""A picture of the demo: ``python -m lab.demo.picture docs/demo.svg`` runs it and draws what it said.

Its own dark ground, so it is readable on a light and on a dark page.
"""

from __future__ import annotations

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


def draw(output: str) -> str:
    """Return the lines of an output as SVG."""
    lines = ["$ make demo", *output.rstrip().splitlines()]
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
    if line.startswith("["):
        return STEP
    return RESULT if line.startswith(" ") else TITLE


def main() -> None:
    """Run the demo and write the picture to the file that the command line names."""
    done = subprocess.run([sys.executable, "-m", "lab.demo"], stdout=subprocess.PIPE, text=True, check=True)
    Path(sys.argv[1]).write_text(draw(done.stdout))


if __name__ == "__main__":
    main()
