"""The dashboard and the figures for Prometheus, of a fleet of 10,000: what a page costs on the server."""

from __future__ import annotations

import shutil
import statistics
import time
from typing import TYPE_CHECKING, Final

from sqlalchemy import update

from deployer.database import rotations, schema
from lab.bench.processes import cpu
from lab.bench_deployer import database
from lab.bench_deployer.figures import Figure
from lab.testbed.deployer import Api

if TYPE_CHECKING:
    from deployer.database.engine import Database

PAGE_MS: Final = 300.0
FLEET: Final = 10_000
TIMES: Final = 20
EVERY: Final = 100
"""One VPS in so many is failing, one is joining, one has a secret that is late and rotates."""
HTML: Final = {"Accept": "text/html"}
PAGES: Final = {"the fleet's page": "/", "a VPS's page": "/vps/vps-000000", "metrics": "/metrics"}
GOOD: Final = 200


def measure(fleet: int = FLEET, times: int = TIMES) -> list[Figure]:
    """Measure each page, one request after the other."""
    api = Api(parts=False)
    try:
        now = time.time()
        database.fill_sqlite(api.database, fleet, now)
        _disturb(api.database, fleet, now)
        with api:
            return [
                figure
                for what, path in PAGES.items()
                for figure in _page(api, f"{fleet:,} VPSs: {what}", path, times, promised=path == "/")
            ]
    finally:
        shutil.rmtree(api.directory, ignore_errors=True)


def _page(api: Api, what: str, path: str, times: int, *, promised: bool) -> list[Figure]:
    process = api.process
    if process is None:
        raise RuntimeError("the API has ended")
    _get(api, path)
    walls, before = [], sum(cpu(process.pid))
    for _ in range(times):
        began = time.perf_counter()
        _get(api, path)
        walls.append(1000 * (time.perf_counter() - began))
    spent = 1000 * (sum(cpu(process.pid)) - before) / times
    most = PAGE_MS if promised else None
    return [
        Figure(f"{what}, by the clock, p50", statistics.median(walls), "ms", most),
        Figure(f"{what}, CPU of the server", spent, "ms", most),
    ]


def _get(api: Api, path: str) -> None:
    answer = api.ask("GET", path, headers=HTML if path != "/metrics" else {})
    if answer.status != GOOD:
        raise RuntimeError(f"the benchmark was answered HTTP {answer.status} at {path}")


def _disturb(store: Database, fleet: int, now: float) -> None:
    """Let some of the fleet be as a page must show first."""
    vps, secret = schema.vps, schema.secret
    with store.write() as c:
        c.execute(update(vps).values(looked_at=now, served_at=now, state="serving", granted_to="user"))
        for number in range(0, fleet, EVERY):
            failing, joining, late = (f"vps-{number + more:06}" for more in range(3))
            c.execute(update(vps).where(vps.c.id == failing).values(failures=3, last_error="HTTP 503"))
            c.execute(update(vps).where(vps.c.id == joining).values(state="joining", served_at=None))
            c.execute(
                update(secret).where(secret.c.vps == late, secret.c.name == "NAME_0").values(due=now - 9)
            )
            rotations.want(
                c, now, late, "group-0", ["NAME_0"], reason="schedule", asked_by="bench", due=now - 9
            )
