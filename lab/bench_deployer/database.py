"""The database: a pass over a fleet with nothing to do, on SQLite; what is due, on PostgreSQL."""

from __future__ import annotations

import resource
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import TYPE_CHECKING, Final

from sqlalchemy import insert, text

from deployer.database import blueprints, rotations, schema, secrets, vpses
from deployer.database.engine import open_database
from deployer.database.migrating import migrate
from lab.bench_deployer.figures import Figure
from lab.testbed.postgresql import Postgresql

if TYPE_CHECKING:
    from collections.abc import Callable

    from deployer.database.engine import Database

NOW: Final = 1_800_000_000.0
NAMES: Final = 7
PASS_S: Final = 2.0
PASS_MB: Final = 150.0
DUE_MS: Final = 50.0
REPEAT: Final = 50
STATEMENTS: Final = 50
"""In so many the database is filled: one may take a minute at most."""
BATCH: Final = 500
OWNER: Final = "bench"
MONTH_S: Final = 30 * 86400
"""In which the work on all secrets begins, one after the other."""
FILL_VPSES: Final = """
INSERT INTO vps (id, blueprint, created_at, next_look)
SELECT 'vps-' || n, 'backend', 0, :now + 300 FROM generate_series(:first / :names, :last / :names) n
ON CONFLICT DO NOTHING
"""
FILL_SECRETS: Final = """
INSERT INTO secret (vps, name, kind, grp, current, created, due, work_at, state)
SELECT 'vps-' || n / :names, 'NAME_' || n % :names, 'random', 'group-' || n % :names / 2,
    gen_random_uuid()::text, :now, :now + n * :beat + 3600, :now + n * :beat, 'current'
FROM generate_series(:first, :last) n
"""


@dataclass(frozen=True, slots=True)
class Size:
    """VPSs on SQLite, secrets on PostgreSQL."""

    fleet: int
    many: int


PROMISED: Final = Size(10_000, 1_000_000)
SMALL: Final = Size(50, 5_000)


def measure(size: Size = PROMISED) -> list[Figure]:
    """Measure both."""
    with tempfile.TemporaryDirectory(prefix="bench-deployer-") as place:
        url = f"sqlite:///{place}/deployer.db"
        _apart(_fill_sqlite, url, size.fleet)
        figures = _apart(_pass, url, size.fleet)
    with Postgresql({"shared_buffers": "256MB", "fsync": "on"}) as server:
        database = open_database(server.url)
        figures += _due(database, size.many)
        database.close()
    return figures


def _apart(step: Callable[[str, int], list[Figure]], url: str, fleet: int) -> list[Figure]:
    """Run a step in a process of its own, whose memory is what this step needs."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(step, url, fleet).result()


def fill_sqlite(database: Database, fleet: int, now: float = NOW) -> None:
    """Write a fleet with nothing to do into an empty database."""
    names = [{"name": f"NAME_{n}", "kind": "random", "grp": f"group-{n // 2}"} for n in range(NAMES)]
    dates = {"created": now, "due": now + 1e6, "work_at": now + 9e5, "state": "current"}
    with database.write() as c:
        blueprints.put(c, now, "backend", "", OWNER)
        ids = [f"vps-{n:06}" for n in range(fleet)]
        row = {"blueprint": "backend", "labels": {"site": "ams"}, "created_at": now, "next_look": now}
        c.execute(insert(schema.vps), [{"id": vps_id, **row} for vps_id in ids])
        c.execute(
            insert(schema.secret),
            [
                {"vps": vps_id, "current": f"00000000-0000-4000-8000-{n:012}", **name, **dates}
                for n, vps_id in enumerate(ids)
                for name in names
            ],
        )


def _fill_sqlite(url: str, fleet: int) -> list[Figure]:
    database = open_database(url)
    migrate(database)
    fill_sqlite(database, fleet)
    database.close()
    return []


def _pass(url: str, fleet: int) -> list[Figure]:
    """Take every VPS, read all that is known of it, write nothing of it, and give it back."""
    database = open_database(url)
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    looked = 0
    while True:
        with database.write() as c:
            taken = vpses.claim_some_due(c, NOW, OWNER, 60, BATCH)
        if not taken:
            break
        with database.read() as c:
            known = secrets.of_many(c, [row.id for row in taken])
            looked += len({row.vps for row in known})
        with database.write() as c:
            vpses.release_many(c, NOW, OWNER, dict.fromkeys((row.id for row in taken), NOW + 300))
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    _expect(found=looked == fleet)
    began = time.perf_counter()
    for _ in range(REPEAT):
        _claim(database, NOW, some=False)
        _due_groups(database, NOW, some=False)
    sweep = (time.perf_counter() - began) / REPEAT
    database.close()
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    of = f"SQLite, {fleet:,} VPSs of {NAMES} secrets"
    return [
        Figure(f"{of}: take, read and release all", cpu, "s CPU", PASS_S),
        Figure(f"{of}: the same by the clock", wall, "s"),
        Figure(f"{of}: memory of the process", after.ru_maxrss / 1024, "MB", PASS_MB),
        Figure(f"{of}: a sweep that finds nothing due", 1000 * sweep, "ms"),
    ]


def _due(database: Database, many: int) -> list[Figure]:
    _fill_postgresql(database, many)
    of = f"PostgreSQL, {many:,} secrets"
    hour, outage = NOW + 3600, NOW + 3 * 86400
    figures = _timed(f"{of}: what is due, nothing", lambda: _due_groups(database, NOW, some=False))
    figures += _timed(f"{of}: what is due, an hour's", lambda: _due_groups(database, hour, some=True))
    figures += _timed(f"{of}: what is due, three days'", lambda: _due_groups(database, outage, some=True))
    with database.write() as c:
        rotating = "UPDATE secret SET state = 'rotating' WHERE work_at <= :outage"
        c.execute(text(rotating), {"outage": outage})
    figures += _timed(f"{of}: while those rotate", lambda: _due_groups(database, outage, some=False))
    figures += _timed(f"{of}: whose turn it is", lambda: _claim(database, NOW + 301, some=True))
    figures += _timed(f"{of}: figures of a month", lambda: _figures(database))
    return figures


def _fill_postgresql(database: Database, many: int) -> None:
    migrate(database)
    with database.write() as c:
        blueprints.put(c, NOW, "backend", "", OWNER)
    for first in range(1, many + 1, many // STATEMENTS):
        numbers = {"first": first, "last": first + many // STATEMENTS - 1, "names": NAMES, "now": NOW}
        with database.write() as c:
            c.execute(text(FILL_VPSES), numbers)
            c.execute(text(FILL_SECRETS), {**numbers, "beat": MONTH_S / many})
    with database.write() as c:
        c.execute(text("ANALYZE"))


def _due_groups(database: Database, now: float, *, some: bool) -> None:
    with database.read() as c:
        _expect(found=bool(secrets.due_groups(c, now)) == some)


def _claim(database: Database, now: float, *, some: bool) -> None:
    with database.write() as c:
        _expect(found=(vpses.claim_due(c, now, OWNER, 60) is not None) == some)


def _expect(*, found: bool) -> None:
    if not found:
        raise RuntimeError("the benchmark measured something else than it says")


def _figures(database: Database) -> None:
    with database.read() as c:
        rotations.figures(c, NOW, NOW - 30 * 86400)


def _timed(what: str, step: Callable[[], None]) -> list[Figure]:
    step()
    took = []
    for _ in range(REPEAT):
        began = time.perf_counter()
        step()
        took.append(1000 * (time.perf_counter() - began))
    worst = statistics.quantiles(took, n=100)[98]
    return [
        Figure(f"{what}, p50", statistics.median(took), "ms", DUE_MS),
        Figure(f"{what}, p99", worst, "ms"),
    ]
