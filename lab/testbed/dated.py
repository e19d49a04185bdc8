"""The agent with another wall clock: ``python -m lab.testbed.dated SECONDS --config PATH``.

SECONDS are added to the wall clock. The boot clock and all waits are real.
"""

from __future__ import annotations

import sys

from agent.core.rotation import Moment
from agent.serve import __main__ as serve_program
from agent.serve.host import clock

if __name__ == "__main__":
    ahead = float(sys.argv.pop(1))
    wall = clock.wall
    clock.wall = lambda: wall() + ahead
    clock.moment = lambda: Moment(clock.boot(), clock.wall())
    sys.exit(serve_program.main())
