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

from lab.demo.picture import LEFT_OUT, PARTS, cut, draw
from lab.demo.screen import cells, fit

ROOT = Path(__file__).parents[2]
PROGRAM = """
import time
from lab.demo import screen
screen.TICK_S = 0.01
shown = screen.Screen()
with shown.step("start Keystone and Barbican 鍵 " + "x" * 60):
    time.sleep(0.5)
shown.say("done")
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


def test_the_picture_shows_parts_that_the_demo_has() -> None:
    """Each title and each word that is left out is in the demo's source; the picture in docs/ has them so."""
    source = "".join(path.read_text() for path in (ROOT / "lab/demo").glob("*.py") if path.stem != "picture")
    assert [title for title in PARTS if title not in source] == []
    drawn = re.sub("<[^>]*>", "", (ROOT / "docs/demo.svg").read_text()).replace("&#x27;", "'")
    assert [title for title in PARTS if f"\n{title}\n" not in drawn] == []
    assert [words for words in LEFT_OUT if words in drawn] == []


def test_the_picture_has_neither_times_nor_what_is_left_out() -> None:
    """A step that is left out takes along what it led to."""
    output = f"""
A cloud: real Keystone
[  0.1 s]  start Keystone  0.1 s

{PARTS[0]}
[ 12.3 s]  start the agent  12.2 s
           2 calls to Keystone
[ 99.0 s]  start <the> application   0.4 s
           A  sha256 0b88fe675422  as in Barbican
[103.0 s]  ask the {LEFT_OUT[3]} 0.4 s
           it failed

Everything is ended and removed.
"""
    shown = cut(output).splitlines()
    assert shown[:5] == [
        *("", PARTS[0], "  start the agent", "  start <the> application"),
        "    A  sha256 0b88fe675422  as in Barbican",
    ]
    assert shown[5:7] == ["", "and more: other VPSs are refused, one is revoked, a deleted secret comes back"]
    assert "start &lt;the&gt; application" in draw("\n".join(shown))
