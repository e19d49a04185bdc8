"""The whole demo at a terminal of 80 columns, with the rotation by hand that it proposes."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from lab.demo.screen import cells

pytestmark = pytest.mark.long
ROOT = Path(__file__).parents[2]


class Terminal:
    """A demo that is left running, and everything that it sent to its terminal so far."""

    def __init__(self) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        environ = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES"}}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "lab.demo", "--keep"],
            cwd=ROOT,
            env=environ,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        self.sent = b""

    def until(self, words: str, times: int = 1) -> None:
        """Read until it has said this so often, or has ended."""
        while self.sent.count(words.encode()) < times and self._read():
            pass
        assert self.sent.count(words.encode()) >= times, self.sent.decode()

    def _read(self) -> bool:
        try:
            chunk = os.read(self._ours, 65536)
        except OSError:  # EIO: the last writer has gone
            return False
        self.sent += chunk
        return bool(chunk)

    def end(self) -> None:
        """Interrupt it, as Ctrl-C, and read the rest."""
        self.process.send_signal(signal.SIGINT)
        while self._read():
            pass
        self.process.wait()

    def close(self) -> None:
        """End it in any case."""
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait()
        os.close(self._ours)


@pytest.mark.timeout(900)
def test_the_whole_demo_and_a_rotation_by_hand() -> None:
    """Every line fits, what is shown was really read, and the printed command rotates."""
    demo = Terminal()
    try:
        demo.until("reads from now on:\r\n")
        printed = demo.sent.decode()
        command = re.search(r"^  (openssl .*)\r$", printed, re.MULTILINE)
        control = re.search(r" control=(\S+)", printed)
        assert command is not None
        assert control is not None
        subprocess.run(["/bin/bash", "-c", command[1]], cwd=ROOT, check=True, capture_output=True)
        subprocess.run(
            ["/bin/bash", "-c", "build/venv/bin/vps-secrets refresh --control-socket " + control[1]],
            cwd=ROOT,
            check=True,
            capture_output=True,
        )
        demo.until("JWT_SECRET       sha256", 6)  # two of the agent, three of the deployer, this one
        log = Path(control[1]).with_name("log").read_text()
        demo.end()
    finally:
        demo.close()
    assert demo.process.returncode == 0
    lines = re.sub(r"\r\x1b\[K[^\r\n]*(?=\r\x1b)", "", demo.sent.decode()).split("\r\n")
    shown = [line.replace("\r\x1b[K", "") for line in lines]
    assert max(map(cells, shown)) <= 80
    assert len(shown) < 130
    text = " ".join(" ".join(shown).split())
    assert text.count("as in Barbican") == 7, "six at the start, and all after the outage"
    for words in ("which no grant covers: HTTP 403", "6 secrets", "ECONNREFUSED"):
        assert words in text
    assert ("asked for by uid 65534: HTTP 403" in text) is (os.getuid() == 0)
    audit = [json.loads(line[6:]) for line in log.splitlines() if line.startswith("audit ")]
    readers = {one["pid"] for one in audit if one["action"] == "/v1/bundle"}
    assert len(readers) == 2, "the application, and the one that was started while Barbican was away"
    digests = re.findall(r"JWT_SECRET sha256 (\w+)", text)
    assert len(set(digests)) == 6
    assert "WRONG" not in text
