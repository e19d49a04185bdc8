"""A worker's claims, as a process: takes what is due and writes down what it got, on standard output.

``python -m tests.database.claiming URL OWNER`` until nothing is due; with ``--hold`` it takes one and waits
to be killed.
"""

from __future__ import annotations

import signal
import sys

from deployer.database import vpses
from deployer.database.engine import open_database
from tests.database.making import NOW


def main(url: str, owner: str, *options: str) -> None:
    """Claim."""
    database = open_database(url)
    print("ready", flush=True)  # noqa: T201  # to the test
    sys.stdin.readline()
    while True:
        with database.write() as c:
            row = vpses.claim_due(c, NOW, owner, 60)
        if row is None:
            break
        print(row.id, flush=True)  # noqa: T201
        if options:
            signal.pause()
        with database.write() as c:
            vpses.release(c, NOW, row.id, owner, NOW + 300)
    database.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
