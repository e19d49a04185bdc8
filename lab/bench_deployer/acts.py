"""What each act of the worker costs: calls to Barbican, its own CPU time, and what it asks of PostgreSQL.

One worker takes its turns in this thread, on a real PostgreSQL and the fake Barbican, which is compared with
the real ones (tests/cloud/test_fake_barbican.py). So calls are exact, and CPU is the worker's alone: what the
fake and the server need is not in this thread. Days pass on the worker's clock, not on the machine's.
"""

from __future__ import annotations

import contextlib
import functools
import json
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from keystoneauth1.identity import v3
from keystoneauth1.session import Session
from sqlalchemy import event, func, select, text, update
from sqlalchemy.engine import Engine

from deployer.api import ordering
from deployer.cloud.barbican import Barbican
from deployer.config.zones import zone
from deployer.core import blueprint
from deployer.core.schedule import DAY_S
from deployer.database import blueprints, rotations, schema, vpses
from deployer.database.engine import open_database
from deployer.database.migrating import migrate
from deployer.kinds.external import External
from deployer.kinds.random import Random
from deployer.worker.loop import Worker
from deployer.worker.means import Means
from deployer.worker.pacing import Pace, PacedSession
from deployer.worker.registrar import Registrar
from lab.bench_deployer.figures import Figure
from lab.testbed.fakes.barbican import FakeBarbican
from lab.testbed.fakes.registrar import FakeRegistrar
from lab.testbed.postgresql import Postgresql

if TYPE_CHECKING:
    from collections.abc import Callable

FILE: Final = Path(__file__).parents[1] / "fleet/deployer.json"
"""What ``--write`` keeps, for the simulated fleet and for the costs in money."""
MONTHLY: Final = 4
"""Secrets of a VPS on 30 days; those on 90 are the others."""
QUARTERLY: Final = 3
NAMES: Final = MONTHLY + QUARTERLY
ROUNDS: Final = 10
"""Rotations of each VPS whose traces are measured: a database grows by pages."""
OWNER: Final = "bench"
TABLE: Final = '[NAME_{n}]\nkind = "random"\nrotate = "{days}d"\n'
TEXT: Final = "".join(TABLE.format(n=n, days=30 if n < MONTHLY else 90) for n in range(NAMES))
"""Seven secrets, each of which rotates by itself."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one act, on average: calls, the worker's CPU time, statements, rows written, write-ahead log."""

    calls: float
    cpu_ms: float
    statements: float
    rows: float
    wal_kb: float


class Acts:
    """A fleet of ``vps`` VPSs of seven secrets, and one worker. Use as a context manager.

    ``url`` is the database's: PostgreSQL for all figures; on another one there is no write-ahead log to see.
    """

    def __init__(self, url: str, vps: int) -> None:
        self._stack: Final = contextlib.ExitStack()
        self._vps: Final = vps
        self._ids: Final = [f"vps-{number:04}" for number in range(vps)]
        self._ahead = 0.0
        self.fake: Final = FakeBarbican()
        self.database: Final = open_database(url)
        migrate(self.database)
        self._counted = [0, 0]
        self._worker: Worker

    def __enter__(self) -> Self:
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-acts-")))
        self._stack.callback(self.database.close)
        self._stack.enter_context(self.fake)
        self._stack.enter_context(FakeRegistrar(folder / "registrar.sock"))
        event.listen(Engine, "after_cursor_execute", self._note)
        self._stack.callback(event.remove, Engine, "after_cursor_execute", self._note)
        external = External()
        self._worker = Worker(
            Means(
                database=self.database,
                barbican=Barbican(self._session(), self.fake.url),
                registrar=Registrar(folder / "registrar.sock"),
                kinds={kind.name: kind for kind in (Random(), external)},
                external=external,
                parse=lambda name, written: blueprint.parse(written.encode(), Path(f"{name}.toml"), zone),
                touch=lambda _: None,
                lease_s=600.0,
                interval_s=3600.0,
                now=self._now,
            ),
            concurrency=1,
            sweep_s=60.0,
        )
        with self.database.write() as c:
            blueprints.put(c, self._now(), "backend", TEXT, OWNER)
            for vps_id in self._ids:
                vpses.wish(c, self._now(), vps_id, "backend", labels={}, actor=OWNER)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def provision(self) -> Cost:
        """All that a VPS has, from nothing; its Keystone user is not in it."""
        return self._cost(self._looks)

    def quiet_look(self) -> Cost:
        """Nothing has changed."""
        self._due()
        return self._cost(self._looks)

    def daily_look(self) -> Cost:
        """Nothing has changed, and everything is looked at."""
        self._ahead += DAY_S
        self._due()
        return self._cost(self._looks)

    def rotation(self) -> Cost:
        """One secret whose time has come: found, wanted, made, listed."""
        secret = schema.secret
        with self.database.write() as c:
            row = secret.c.name == "NAME_0"
            c.execute(update(secret).where(row).values(work_at=self._now() - 1, due=self._now()))

        def rotate() -> None:
            _expect(self._worker.want_due() == self._vps)
            self._looks()

        found = self._cost(rotate)
        _expect(self._in_state("listed") == self._vps)
        return found

    def arrival_look(self) -> Cost:
        """A rotation is listed, and the VPS does not say yet that it serves it."""
        self._due()
        return self._cost(self._looks)

    def clean_up(self) -> Cost:
        """A look that deletes a former version: a day later, when the daily look has been."""
        with self.database.write() as c:
            for order in rotations.page(c, limit=10_000):
                if order.ended_at is None:
                    rotations.progress(c, order.id, "arrived", self._now())
        self._ahead += DAY_S + 60.0
        with self.database.write() as c:
            c.execute(update(schema.vps).values(looked_at=self._now()))
        self._due()
        before = len(self.fake.secrets)
        found = self._cost(self._looks)
        _expect(len(self.fake.secrets) == before - self._vps)
        return found

    def emergency(self) -> Cost:
        """All seven are compromised: made anew, listed, and the former ones are deleted."""

        def replace() -> None:
            for vps_id in self._ids:
                with self.database.write() as c:
                    order = ordering.Order(OWNER, "emergency", vps_id, {"reason": "measured"})
                    ordering.emergency(c, self._now(), order, pool=False)
            self._looks()

        found = self._cost(replace)
        _expect(self._in_state("listed") == NAMES * self._vps == len(self.fake.secrets))
        return found

    def traces(self) -> tuple[int, float]:
        """Return how many rows there are of what has been, and how large the database is (kB)."""
        tables = (schema.history, schema.rotation, schema.version, schema.operation)
        with self.database.read() as c:
            rows = sum(int(c.execute(select(func.count()).select_from(each)).scalar_one()) for each in tables)
            if self.database.is_sqlite:
                size = c.execute(
                    text("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size")
                )
            else:
                size = c.execute(text("SELECT pg_database_size(current_database())"))
            return rows, float(size.scalar_one()) / 1024

    def _looks(self) -> None:
        for _ in range(self._vps):  # no more: those that were looked at first may be due again by now
            _expect(self._worker.run_one(OWNER))

    def _cost(self, step: Callable[[], None]) -> Cost:
        before, calls = self._wal(), self.fake.calls.total()
        self._counted = [0, 0]
        began = time.thread_time()
        step()
        cpu = time.thread_time() - began
        statements, rows = self._counted
        calls = self.fake.calls.total() - calls
        figures = (calls, 1000 * cpu, statements, rows, (self._wal() - before) / 1024)
        _expect(not any(line.startswith(("4", "5")) for line in self._statuses()))
        return Cost(*(round(figure / self._vps, 3) for figure in figures))

    def _statuses(self) -> set[str]:
        return {line.rpartition(" ")[2] for line in self.fake.calls}

    def _wal(self) -> float:
        if self.database.is_sqlite:
            return 0.0
        with self.database.read() as c:
            return float(c.execute(text("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")).scalar_one())

    def _note(self, _: object, cursor: Any, statement: str, *__: object) -> None:
        self._counted[0] += 1
        if statement.lstrip().startswith(("INSERT", "UPDATE", "DELETE")):
            self._counted[1] += max(0, cursor.rowcount)

    def _due(self) -> None:
        with self.database.write() as c:
            c.execute(update(schema.vps).values(next_look=0.0))

    def _in_state(self, state: str) -> int:
        with self.database.read() as c:
            return len(c.execute(select(schema.rotation.c.id).where(schema.rotation.c.state == state)).all())

    def _now(self) -> float:
        return time.time() + self._ahead

    def _session(self) -> Any:
        login = v3.ApplicationCredential(
            auth_url=self.fake.auth_url,
            application_credential_id="id",
            application_credential_secret="none",  # noqa: S106  # the fake lets everybody in
        )
        return PacedSession(Session(auth=login), Pace(100_000.0, 100_000))


def costs(url: str, vps: int) -> dict[str, Cost]:
    """Measure every act, in the order in which they come in the life of a VPS."""
    with Acts(url, vps) as acts:
        provision, quiet = acts.provision(), acts.quiet_look()
        acts.daily_look()  # the first one writes down Barbican's own dates
        return {
            "provision": provision,
            "quiet look": quiet,
            "daily look": acts.daily_look(),
            "rotation": acts.rotation(),
            "arrival look": acts.arrival_look(),
            "clean-up": acts.clean_up(),
            "emergency": acts.emergency(),
        }


def stays(url: str, vps: int) -> tuple[float, float]:
    """Return what stays of one rotation, when its former version is deleted: rows, kB."""
    with Acts(url, vps) as acts:
        acts.provision()
        acts.daily_look()
        before = acts.traces()
        for _ in range(ROUNDS):
            acts.rotation()
            acts.clean_up()
        rows, size = acts.traces()
        return (rows - before[0]) / vps / ROUNDS, (size - before[1]) / vps / ROUNDS


def _traces(vps: int) -> list[Figure]:
    """Measure what stays, of one rotation and of a week of a hundred VPSs, on both databases."""
    with Postgresql() as server, tempfile.TemporaryDirectory(prefix="bench-acts-") as folder:
        at = {"PostgreSQL": server.url, "SQLite": f"sqlite:///{folder}/deployer.db"}
        found = {name: stays(url, vps) for name, url in at.items()}
    week = 100 * (MONTHLY / 30 + QUARTERLY / 90) * 7
    return [
        Figure("what stays of a rotation, with its history: rows", found["SQLite"][0], ""),
        *(Figure(f"{name}: what stays of a rotation", size, "kB") for name, (_, size) in found.items()),
        Figure(
            f"what stays of a week of 100 VPSs ({week:.0f} rotations): rows", week * found["SQLite"][0], ""
        ),
        *(
            Figure(f"{name}: what stays of a week of 100 VPSs", week * size, "kB")
            for name, (_, size) in found.items()
        ),
    ]


@functools.cache
def _costs(vps: int) -> dict[str, Cost]:
    """Measure, once in a run: its table and what is kept for others are of the same moment."""
    with Postgresql({"fsync": "on", "full_page_writes": "on"}) as server:
        return costs(server.url, vps)


def measure(vps: int = 100) -> list[Figure]:
    """Measure, and return the figures."""
    figures = [
        figure
        for name, cost in _costs(vps).items()
        for figure in (
            Figure(f"{name}: calls to Barbican", cost.calls, ""),
            Figure(f"{name}: CPU of the worker", cost.cpu_ms, "ms"),
            Figure(f"{name}: statements", cost.statements, ""),
            Figure(f"{name}: rows written", cost.rows, ""),
            Figure(f"{name}: write-ahead log", cost.wal_kb, "kB"),
        )
    ]
    return figures + _traces(min(vps, 20))


def kept() -> dict[str, Cost]:
    """Return what was measured last."""
    return {name: Cost(**cost) for name, cost in json.loads(FILE.read_text()).items()}


def keep(vps: int = 100) -> None:
    """Write what :func:`measure` has measured into :data:`FILE`."""
    FILE.write_text(json.dumps({name: asdict(cost) for name, cost in _costs(vps).items()}, indent=1) + "\n")


def _expect(found: bool) -> None:  # noqa: FBT001  # as assert, which a benchmark has not
    if not found:
        raise RuntimeError("the benchmark measured something else than it says")
