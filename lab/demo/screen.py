"""What the demo shows: one line per step, when it happened and how long it took. Never a value."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import sys
import textwrap
import threading
import time
import unicodedata
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

WIDTH: Final = 80
"""Of every line, at most."""
TICK_S: Final = 0.2
_TIMES: Final = 20
"""Columns of a step's line that are not its text: when it began, and how long it took."""


class Screen:
    """Owns the terminal and the clock of the demo. Where there is no terminal a step is one plain line."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._live = sys.stdout.isatty()

    @contextlib.contextmanager
    def step(self, text: str) -> Iterator[None]:
        """Show a step while it runs, and how long it took."""
        began = time.monotonic()
        over = threading.Event()
        ticker = threading.Thread(target=self._tick, args=(text, began, over), daemon=True)
        if self._live:
            ticker.start()
        try:
            yield
        finally:
            over.set()
            if self._live:
                ticker.join()
                print("\r\033[K", end="")
        print(self._line(text, began, shutil.get_terminal_size((WIDTH, 24)).columns), flush=True)

    def say(self, text: str) -> None:
        """Show what a step led to."""
        for line in textwrap.wrap(text, WIDTH - 11, break_on_hyphens=False):
            print(f"{'':9}  {line}", flush=True)

    def title(self, text: str) -> None:
        """Begin a part."""
        print(f"\n{text}", flush=True)

    def _line(self, text: str, began: float, columns: int) -> str:
        """Return a step's line: aligned in the columns that there are, longer where the text is."""
        now = time.monotonic()
        padding = " " * max(0, min(columns, WIDTH) - _TIMES - cells(text))
        return f"[{now - self._began:5.1f} s]  {text}{padding} {now - began:5.1f} s"

    def _tick(self, text: str, began: float, over: threading.Event) -> None:
        """Renew one line until the step is over; a line that wraps could not be taken back."""
        while not over.wait(TICK_S):
            columns = shutil.get_terminal_size((WIDTH, 24)).columns
            print(f"\r\033[K{fit(self._line(text, began, columns), columns - 1)}", end="", flush=True)


def cells(text: str) -> int:
    """Return how many columns of a terminal a text takes (Unicode Standard Annex 11)."""
    return sum(map(_cells_of, text))


def fit(text: str, columns: int) -> str:
    """Return the beginning of a text that fits into so many columns."""
    taken = 0
    for index, character in enumerate(text):
        taken += _cells_of(character)
        if taken > columns:
            return text[:index]
    return text


def _cells_of(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in {"W", "F"} else 1


def digest(value: bytes) -> str:
    """Return what may be shown of a value."""
    return hashlib.sha256(value).hexdigest()[:12]
