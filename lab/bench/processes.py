"""What the kernel knows about processes: memory, wake-ups, CPU time."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from lab.bench.results import Memory

if TYPE_CHECKING:
    from collections.abc import Mapping


def memory(pids: tuple[int, ...]) -> Memory:
    """Return the memory of a server's processes."""
    resident = sum(_kib(Path(f"/proc/{pid}/status"), "VmRSS") for pid in pids) / 1024
    try:
        rollups = [Path(f"/proc/{pid}/smaps_rollup") for pid in pids]
        proportional = sum(_kib(rollup, "Pss") for rollup in rollups) / 1024
        anonymous = sum(_kib(rollup, "Anonymous") for rollup in rollups) / 1024
    except PermissionError:  # serve is not dumpable: /proc shows this to root only
        return Memory(resident, None, None)
    return Memory(resident, proportional, anonymous)


def _kib(path: Path, key: str) -> int:
    for line in path.read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1])
    raise SystemExit(f"bench: {path} has no {key}")


def wakeups(servers: Mapping[str, tuple[int, ...]], seconds: float) -> dict[str, float]:
    """Return how often a minute each server woke while nobody asked it anything."""
    before = {name: sum(map(_switches, pids)) for name, pids in servers.items()}
    time.sleep(seconds)
    return {name: (sum(map(_switches, pids)) - before[name]) * 60 / seconds for name, pids in servers.items()}


def _switches(pid: int) -> int:
    """Return the voluntary context switches of all threads: each time one had nothing to do and was woken."""
    return sum(
        int(line.split()[1])
        for task in Path(f"/proc/{pid}/task").iterdir()
        for line in (task / "status").read_text().splitlines()
        if line.startswith("voluntary_ctxt_switches:")
    )


def cpu(pid: int) -> tuple[float, float]:
    """Return the CPU time (s, user and system) of a process, and of its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own, ended = sum(map(int, fields[11:13])), sum(map(int, fields[13:15]))
    return own / os.sysconf("SC_CLK_TCK"), ended / os.sysconf("SC_CLK_TCK")


def memory_of(command: list[str | Path]) -> Memory:
    """Return the memory of a program once it has written a byte; it must end when its input does."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        if process.stdout is None or not process.stdout.read(1):
            raise SystemExit(f"bench: {command[0]} ended at once")
        found = memory((process.pid,))
        process.communicate()
    return found
