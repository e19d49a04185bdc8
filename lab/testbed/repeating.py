"""Whoever does something again and again in a thread, while a test or the demo does something else."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import Self


class Repeating(ABC):
    """Calls :meth:`once` all the time, ``pause_s`` seconds apart, in threads of its own, in a ``with``."""

    def __init__(self, pause_s: float = 0.0, threads: int = 1) -> None:
        self._pause_s = pause_s
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    @abstractmethod
    def once(self) -> None:
        """Do it."""

    def _run(self) -> None:
        while not self._ended.wait(self._pause_s):
            self.once()
