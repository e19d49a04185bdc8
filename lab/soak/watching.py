"""What an agent's process uses, seen from outside, and what it writes, with the time at which it was seen."""

from __future__ import annotations

import os
import re
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from lab.testbed.running import Agent

EVERY_S: Final = 1.0
TELLS: Final = ("tasks", "watchers", "generation")
"""Metrics of the agent's own that are sampled."""


class Watching:
    """A thread that samples until the end. ``samples`` has a row a second, ``lines`` the journal's."""

    def __init__(self, agent: Agent) -> None:
        assert agent.process is not None  # noqa: S101  # it runs
        self._agent: Final = agent
        self._pid: Final = agent.process.pid
        self._end: Final = threading.Event()
        self._thread: Final = threading.Thread(target=self._run)
        self.began: Final = time.monotonic()
        self.samples: Final[list[dict[str, float]]] = []
        self.lines: Final[list[tuple[float, str]]] = []
        self._seen = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(30)
        self._read_journal()

    def now(self) -> float:
        """Return the seconds since the beginning."""
        return time.monotonic() - self.began

    def _run(self) -> None:
        while not self._end.wait(EVERY_S):
            self.samples.append({"time": self.now(), **used(self._pid), **self._told()})
            self._read_journal()

    def _told(self) -> dict[str, float]:
        text = self._agent.ask_control("/metrics").body.decode()
        found = {name: re.search(rf"^vps_secrets_{name} (\S+)$", text, re.MULTILINE) for name in TELLS}
        return {name: float(match[1]) for name, match in found.items() if match}

    def _read_journal(self) -> None:
        with self._agent.log_file.open(encoding="utf-8") as file:
            file.seek(self._seen)
            text = file.read()
            whole = text.rpartition("\n")[0]
            self._seen += len(whole.encode()) + 1 if whole else 0
        now = self.now()
        self.lines.extend((now, line) for line in whole.splitlines() if not line.startswith("audit "))


def used(pid: int) -> dict[str, float]:
    """Return memory (MB), descriptors, threads, children and CPU seconds of a process (proc(5))."""
    status = dict(
        line.split(":", 1)
        for line in Path(f"/proc/{pid}/status").read_text("ascii").splitlines()
        if ":" in line
    )
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()
    return {
        "resident": int(status["VmRSS"].split()[0]) / 1024,
        "anonymous": int(status["RssAnon"].split()[0]) / 1024,
        "descriptors": sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()),
        "threads": int(status["Threads"]),
        "children": len(children),
        "cpu": sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK"),
    }
