"""The API: ``python -m deployer.api``. Status 0: an orderly end, 2: a wrong configuration, 1: any other."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import resource
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import ConfigurationError, VpsSecretsError
from deployer import notifying
from deployer.api.app import App
from deployer.config.reader import DEFAULT_PATH, load
from deployer.database.engine import open_database
from deployer.database.errors import DatabaseError
from deployer.database.migrating import migrate

if TYPE_CHECKING:
    from deployer.config.model import Config
    from deployer.database.engine import Database

_log = logging.getLogger(__name__)


def main() -> int:
    """Run until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="vps-secrets-deployer-api", description=__doc__)
    parser.add_argument("--config", type=Path, default=DEFAULT_PATH, metavar="FILE")
    parser.add_argument(
        "--check-config", action="store_true", help="say what is wrong with the file, and end"
    )
    options = parser.parse_args()
    try:
        config = load(options.config)
        if options.check_config:
            return 0
        logging.basicConfig(level=config.log_level.upper(), format="%(message)s", stream=sys.stderr)
        # a given value passes through this process: no core file may hold one
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        database = open_database(config.database)
        ready = _prepare(database)
        try:
            asyncio.run(_serve(config, database, ready=ready))
        finally:
            database.close()
    except ConfigurationError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except VpsSecretsError as error:
        sys.stderr.write(f"vps-secrets-deployer-api: {error}\n")
        return 1
    return 0


def _prepare(database: Database) -> bool:
    """Bring the tables up to date. Return False where the database is away: whoever asks is told so.

    Raises:
        DatabaseError: a person has to mend it first.
    """
    try:
        migrate(database)
    except DatabaseError as error:
        if not error.retry:
            raise
        _log.warning("%s Until it answers, every request is refused with 503, and says so", error)
        return False
    return True


async def _serve(config: Config, database: Database, *, ready: bool) -> None:
    app = App(config, database, ready=ready)
    ending = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.set)
    await app.start()
    notifying.tell(notifying.READY)
    while not ending.is_set():
        notifying.tell(notifying.ALIVE)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ending.wait(), notifying.beat_s())
    notifying.tell(notifying.STOPPING)
    await app.stop()


if __name__ == "__main__":
    sys.exit(main())
