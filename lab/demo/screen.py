"""What the demo shows: one line per step, when it happened and how long it took. Never a value."""

from __future__ import annotations

import contextlib
import hashlib
import sys
import threading
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

WIDTH: Final = 72


class Screen:
    """Owns the terminal and the clock of the demo."""

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
        print(f"{self._now()}  {text:<{WIDTH}} {time.monotonic() - began:6.2f} s", flush=True)

    def say(self, text: str) -> None:
        """Show what a step led to."""
        print(f"{'':9}  {text}", flush=True)

    def title(self, text: str) -> None:
        """Begin a part."""
        print(f"\n{text}", flush=True)

    def _now(self) -> str:
        return f"[{time.monotonic() - self._began:5.1f} s]"

    def _tick(self, text: str, began: float, over: threading.Event) -> None:
        while not over.wait(0.2):
            print(f"\r{self._now()}  {text:<{WIDTH}} {time.monotonic() - began:6.1f} s", end="", flush=True)


def digest(value: bytes) -> str:
    """Return what may be shown of a value."""
    return hashlib.sha256(value).hexdigest()[:12]
