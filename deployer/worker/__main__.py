"""``python -m deployer.worker --config PATH``: makes Barbican hold what is wanted, until it is ended.

Exit status: 0 it was ended; 1 the cloud or the database can't be used yet: started again, it may; 78 the
configuration is bad, or a credential.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import resource
import signal
import sys
import threading
from pathlib import Path
from typing import Final

from common.errors import ConfigurationError, VpsSecretsError
from deployer import listening, notifying, peers
from deployer.config import reader
from deployer.config.credentials import CredentialError
from deployer.database.migrating import check
from deployer.worker import opening, pruning
from deployer.worker.door import Door
from deployer.worker.giving import Giving
from deployer.worker.loop import Worker, place_of

LOG: Final = logging.getLogger("deployer.worker")
EXIT_CONFIGURATION: Final = 78  # sysexits.h
PULSE_S: Final = 1.0


def main(arguments: list[str] | None = None) -> int:
    """Work until SIGTERM or SIGINT; return the exit status."""
    parser = argparse.ArgumentParser(prog="vps-secrets-worker", description=__doc__)
    parser.add_argument("--config", type=Path, default=reader.DEFAULT_PATH, metavar="PATH")
    options = parser.parse_args(arguments)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.INFO)
    # no traceback: its lines could quote a request
    sys.excepthook = lambda _, error, __: LOG.critical("%s. Please report it", place_of(error))
    try:
        return _run(options.config)
    except (ConfigurationError, CredentialError) as error:
        LOG.error("%s", error)  # noqa: TRY400  # every mistake, no value, no traceback
        return EXIT_CONFIGURATION
    except VpsSecretsError as error:
        LOG.error("%s", error)  # noqa: TRY400
        return 1


def _run(path: Path) -> int:
    config = reader.load(path)
    logging.getLogger().setLevel(config.log_level.upper())
    logging.getLogger("alembic").setLevel(logging.WARNING)
    callers = {peers.ROOT_UID, os.getuid()}
    callers |= peers.uids(config.path, "registrar.api_user", config.registrar.api_user)
    means = opening.means(config)
    check(means.database)
    keeper = opening.keeper(config, means)
    place = config.worker.socket
    worker = Worker(
        means,
        config.worker.concurrency,
        config.worker.sweep,
        place=str(place.path),
        besides=(keeper.look, pruning.pruner(means.database, config.keep_history)),
    )
    listener, ours = listening.unix(place.path, place.group, place.mode)
    worker.take_back()  # nobody else listens there now
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with Door(listener, worker, Giving(means, worker), frozenset(callers)) as door:
        threading.Thread(target=door.serve_forever, daemon=True).start()
        worker.start()
        LOG.info("the worker is ready; database %s", means.database.name)
        notifying.tell(notifying.READY)
        while not ended.is_set() and not worker.wait(PULSE_S):
            notifying.tell(notifying.ALIVE)  # it can take the lock that every task needs
        notifying.tell(notifying.STOPPING)
        door.shutdown()
    worker.end()
    if ours:
        with contextlib.suppress(OSError):
            place.path.unlink()
    return 1 if worker.defect else 0


if __name__ == "__main__":
    sys.exit(main())
