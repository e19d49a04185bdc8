"""lab/demo/screen.py: a step takes one line of a terminal of any width, and a plain one elsewhere."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from lab.demo.screen import cells, fit

ROOT = Path(__file__).parents[2]
PROGRAM = """
import threading, time
from lab.demo.screen import Screen
screen = Screen()
with screen.step("start Keystone and Barbican 鍵 " + "x" * 60):
    time.sleep(1.5)
screen.say("done")
"""


def at_a_terminal(columns: int) -> str:
    """Return everything that the program sends to a terminal of so many columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environ = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES"}}
    with subprocess.Popen([sys.executable, "-c", PROGRAM], cwd=ROOT, stdout=theirs, env=environ) as process:
        os.close(theirs)
        sent = b""
        while True:
            try:
                chunk = os.read(ours, 65536)
            except OSError:  # EIO: the last writer has gone
                break
            if not chunk:
                break
            sent += chunk
    os.close(ours)
    assert process.returncode == 0
    return sent.decode()


@pytest.mark.parametrize("columns", [20, 40, 80, 200])
def test_a_step_renews_one_line(columns: int) -> None:
    """No renewed line is as wide as the terminal, and nothing but the two results ends a line."""
    sent = at_a_terminal(columns)
    renewed = re.findall(r"\r\x1b\[K([^\r\n]*)(?=\r\x1b)", sent)
    assert renewed
    assert max(map(cells, renewed)) < columns
    assert sent.count("\n") == 2


def test_without_a_terminal_there_is_one_plain_line() -> None:
    """Nothing that only a terminal understands."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert (done.stdout.count("\n"), "\r" in done.stdout, "\x1b" in done.stdout) == (2, False, False)


def test_wide_and_combining_characters_are_counted() -> None:
    """As a terminal does."""
    assert (cells("鍵a"), cells("e\u0301"), fit("鍵鍵鍵", 5), fit("abc", 3)) == (3, 1, "鍵鍵", "abc")
