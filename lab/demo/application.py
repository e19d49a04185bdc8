"""The application of the demo: docs/examples/app.py as a process of its own, and what it printed."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "app.py"


class Application:
    """Starts the example; each line it prints is a set of digests by name."""

    def __init__(self, socket: Path, program: tuple[str, ...] = (sys.executable, str(EXAMPLE))) -> None:
        self._lines: queue.Queue[dict[str, str]] = queue.Queue()
        self._process = subprocess.Popen(
            program,
            env={"PATH": os.environ["PATH"], "VPS_SECRETS_SOCKET": str(socket)},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self._process.stdout is not None  # noqa: S101  # it is a pipe
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True)
        self._reader.start()

    def next_reading(self, seconds: float = 30.0) -> dict[str, str]:
        """Return the digests of the next reading.

        Raises:
            queue.Empty: there was none in time.
        """
        return self._lines.get(timeout=seconds)

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _read(self, lines: IO[bytes]) -> None:
        for line in lines:
            pairs = (word.partition("=") for word in line.decode().split())
            self._lines.put({name: shown for name, _, shown in pairs})
