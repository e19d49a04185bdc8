"""Compiles the programs in C, and starts, pins and ends processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parents[1]
BUILD: Final = ROOT / "build"
PATIENCE_S: Final = 30.0


class Missing(Exception):  # noqa: N818  # not an error: something that this machine does not have
    """A peer can't be had here; the text tells why, and what to do."""


@dataclass(frozen=True)
class Tools:
    """The compiled programs, and where what runs.

    Servers under load and the load client share ``core``: each server gets the same share of the machine, and
    none wins by waking a second core. Back ends, the journal's stand-in and all else run ``elsewhere``.
    """

    built: Path
    core: int
    elsewhere: int


def tools(directory: Path) -> Tools:
    """Compile the programs in C."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise SystemExit("bench: no C compiler; fix it with: sudo apt-get install --yes gcc libc6-dev")
    for source in sorted(HERE.glob("*.c")):
        run([compiler, "-O2", "-Wall", "-Wextra", "-Werror", "-o", directory / source.stem, source])
    cores = sorted(os.sched_getaffinity(0))
    return Tools(directory, cores[-1], cores[0])


def pinned(core: int | None) -> list[str]:
    """Return what stands before a command to keep it on one core."""
    return [] if core is None else ["taskset", "--cpu-list", str(core)]


def run(command: Sequence[str | Path], what: str = "") -> str:
    """Run a program to its end; return what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        what = what or Path(command[0]).name
        raise SystemExit(f"bench: {what} ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process and wait for it."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait(condition: Callable[[], bool], what: str, log: Callable[[], str] = str) -> None:
    """Wait until a condition holds; give up, with a log, when time is up."""
    until = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > until:
            raise SystemExit(f"bench: waited {PATIENCE_S:g} s in vain for {what}\n{log()}")
        time.sleep(0.002)


def progress(text: str) -> None:
    """Tell what is being measured now."""
    print(f"bench: {text}", file=sys.stderr, flush=True)
