"""Runs a command at a terminal of its own: ``python3 terminal_inside.py COMMAND…``.

The answers come as JSON on standard input, in order: ``[[question's end, answer], …]``; what the terminal
showed goes to standard output.
"""

import json
import os
import pty
import sys


def main() -> int:
    """Answer each question when it is asked, and return the command's exit status."""
    answers = json.load(sys.stdin)
    child, terminal = pty.fork()
    if not child:
        os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606  # the command under test
    shown = b""
    seen = 0
    while True:
        try:
            chunk = os.read(terminal, 65536)
        except OSError:  # the command has ended
            break
        shown += chunk
        if answers and answers[0][0].encode() in shown[seen:]:
            seen = len(shown)
            os.write(terminal, answers.pop(0)[1].encode() + b"\n")
    sys.stdout.write(shown.decode())
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    sys.exit(main())
