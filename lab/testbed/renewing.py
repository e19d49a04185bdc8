"""``vps-secrets-renew`` as it is, which may die at one of its steps, with the wall clock moved.

    python -m lab.testbed.renewing DIRECTORY DIE_AFTER AHEAD [OPTION…]

Its steps are each call that was answered, each file that was put in force, and the agent's reading: after
the one numbered DIE_AFTER (0: none) it kills itself, as a power cut would. AHEAD seconds are added to what it
takes for the time, its own and Keystone's. The last line of standard error is the number of steps. It needs
root, as systemd-creds(1) does.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from typing import Any

from agent.identity import credential_file
from agent.identity.account import Account, Token
from agent.identity.calls import Line
from agent.renew import __main__ as program
from agent.renew import steps
from lab.testbed.killing import Steps


def moved(ahead: float) -> None:
    """Move the clocks: Keystone's by what the tokens say, this program's own."""
    log_in, wall = Account.log_in, time.time

    def later(self: Account, password: str, project_id: str | None = None) -> Any:
        found = log_in(self, password, project_id)
        return replace(found, issued_at=found.issued_at + ahead) if isinstance(found, Token) else found

    Account.log_in = later  # type: ignore[method-assign]
    time.time = lambda: wall() + ahead


def main() -> int:
    """Renew below a directory."""
    directory, die_after, ahead = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    moved(ahead)
    counter = Steps(die_after)
    for owner, step in ((Line, "call"), (credential_file, "put"), (steps, "ask")):
        setattr(owner, step, counter.counted(getattr(owner, step)))
    status = program.main(["--directory", directory, *sys.argv[4:]])
    sys.stderr.write(f"{counter.taken}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
