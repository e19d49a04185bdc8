"""The loop: whose turn it is, one after the other, in a few threads; any number of workers do the same.

Nothing is found only because somebody woke the worker: every sweep asks the database for what is due.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import secrets as random
import socket
import threading
import time
import traceback
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Final

from common.errors import ConfigurationError
from common.names import Version
from deployer.cloud.errors import CloudError
from deployer.core import schedule
from deployer.database import engine, rotations, secrets, vpses
from deployer.database.errors import DatabaseError, LeaseLostError
from deployer.kinds.kind import KindError
from deployer.outage import Outage
from deployer.worker import pacing
from deployer.worker.clock import steady
from deployer.worker.lease import Lease
from deployer.worker.reconcile import FORGOTTEN, Look

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from common.errors import VpsSecretsError
    from deployer.database.vpses import VpsRow
    from deployer.worker.means import Means

LOG: Final = logging.getLogger("deployer.worker")
DUE_AT_ONCE: Final = 500
PERMANENT_S: Final = 900.0
"""Before the next try of what a person has to mend first."""
DATABASE_S: Final = 2.0
"""Before the next try when the database is away."""
EMERGENCY_S: Final = 5.0
"""The longest pause before the next try in an emergency."""
BREATH_S: Final = 1.0
"""The shortest pause of a task that finds nothing due: many VPSs come due one right after the other."""
ALARM_S: Final = 60.0
"""Between two alarms about emergencies that take too long."""
UNSTICK_S: Final = 300.0
"""Between two looks for dates that a wrong clock left in the far future."""


class Worker:
    """Owns the threads. ``means`` are shared by them."""

    def __init__(
        self,
        means: Means,
        concurrency: int,
        sweep_s: float,
        *,
        place: str = "",
        besides: Sequence[Callable[[], float]] = (),
    ) -> None:
        """``besides``: what is done from time to time; each returns the seconds until its next turn.

        ``place`` is where it listens, which no other worker of this machine does at the same time; "" for
        one that does not.
        """
        self._means = means
        self._sweep_s = sweep_s
        self._woken = threading.Condition()
        self._ending = False
        self._place = place_name(place) if place else ""
        self.name = f"{self._place}{socket.gethostname()}-{os.getpid()}-{random.token_hex(4)}"
        """With what the names of its tasks begin, for which they have leases."""
        self._outage = Outage(LOG, "the deployer's database")
        owners = [f"{self.name}-{number:03}" for number in range(concurrency)]  # none begins as another one
        tasks = [
            *(functools.partial(self._work, owner) for owner in owners),
            self._sweep,
            *(functools.partial(self._repeat, act) for act in besides),
        ]
        self._threads = [threading.Thread(target=self._run, args=(task,), daemon=True) for task in tasks]
        self._broken: deque[str] = deque()
        self.defect = ""
        """What ended a task that must not end: the process is to end too, and to be started again."""
        self._alarmed_at = self._unstuck_at = -UNSTICK_S
        self.swept_at = 0.0
        """When the database was last asked for what is due (s since 1970): the loop's pulse."""

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def take_back(self) -> int:
        """Give back the leases of the worker that listened here before, which has ended; return how many.

        Before :meth:`start`. Nobody else's: what is left of it need not wait until they run out.

        Raises:
            DatabaseError: the database is away.
        """
        count = self._give_back(self._place) if self._place else 0
        if count:
            LOG.info("goes on at once with %d VPSs that the worker before this one had begun", count)
        return count

    def _give_back(self, owners: str) -> int:
        with self._means.database.write() as c:
            return vpses.give_back(c, owners)

    def broke_off(self, owner: str) -> None:
        """Give back what ``owner``, who is no task of this worker, had when the database went away.

        As soon as that answers, not when the lease runs out.
        """
        self._broken.append(owner)
        self.wake()

    def wake(self) -> None:
        """There may be something to do."""
        with self._woken:
            self._woken.notify_all()

    def end(self) -> None:
        """Finish the steps that are under way, and stop; what is left is found again."""
        self._stop()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def _stop(self) -> None:
        with self._woken:
            self._ending = True
            self._woken.notify_all()

    def wait(self, seconds: float) -> bool:
        """Wait for the end; return whether it has come."""
        with self._woken:
            return self._woken.wait_for(lambda: self._ending, seconds)

    def run_one(self, owner: str) -> bool:
        """Look at the VPS whose turn it is; return False where none is due.

        Raises:
            DatabaseError: the database is away.
        """
        since = steady()
        with self._means.database.write() as c:
            row = vpses.claim_due(c, engine.time_of(c), owner, self._means.lease_s)
        if row is None:
            return False
        self.look_at(row, owner, since)
        return True

    def idle_s(self) -> float:
        """Return how long nothing is to be looked at (s): until the next sweep at most.

        Raises:
            DatabaseError: the database is away.
        """
        with self._means.database.read() as c:
            due = vpses.until_due(c, engine.time_of(c))
        return self._sweep_s if due is None else min(self._sweep_s, max(BREATH_S, due))

    def look_at(self, row: VpsRow, owner: str, since: float) -> VpsSecretsError | None:
        """Look at a VPS, and give its lease back, which ``owner`` has since then; return what went wrong.

        Raises:
            DatabaseError: the database is away. The lease runs out by itself, if nobody gives it back.
        """
        lease = Lease(self._means.database, row.id, owner, self._means.lease_s, since)
        error: VpsSecretsError | None = None
        pause = 0.0
        try:
            with pacing.turn(lease.hold):
                pause, error = self._look(row, lease)
            if pause == FORGOTTEN:
                LOG.info("%s: nothing is left of it", row.id)
                return None
            failures = row.failures + 1 if error else 0
            if error:
                pause = _after(error, failures, hurries=row.urgent >= vpses.EMERGENCY)
                LOG.warning("%s: %s. Tried again in %.0f s", row.id, str(error).rstrip("."), pause)
            with self._means.database.write() as c:
                now = engine.time_of(c)
                words = str(error) if error else ""
                vpses.release(c, now, row.id, owner, now + pause, failures=failures, error=words)
        except LeaseLostError as lost:
            LOG.warning("%s: %s", row.id, lost)
            return lost
        return error

    def _look(self, row: VpsRow, lease: Lease) -> tuple[float, VpsSecretsError | None]:
        """Return when to look again, or what went wrong: other VPSs are not to suffer from it."""
        try:
            return Look(self._means, row, lease).run(), None
        except LeaseLostError:
            raise
        except (CloudError, KindError, DatabaseError) as failed:
            return 0.0, failed
        except ConfigurationError as failed:
            LOG.error("%s: its blueprint is not taken any more: %s", row.id, failed)  # noqa: TRY400
            reason = f"the blueprint {row.blueprint} is not taken any more: apply it again"
            return 0.0, KindError("reconcile", reason, permanent=True)
        except Exception as failed:  # noqa: BLE001  # shown without its text, which could quote a value
            place = place_of(failed)
            LOG.critical("%s: a defect ended its look: %s. Please report it", row.id, place)
            return 0.0, KindError("reconcile", f"a defect of the program: {place}", permanent=True)

    def want_due(self) -> int:
        """Want a rotation for every group whose time has come; return how many."""
        now = self._means.now()
        with self._means.database.write() as c:
            due = secrets.due_groups(c, now, DUE_AT_ONCE, to_want=True)
            for group in due:
                members = [one for one in secrets.of(c, group.vps) if one.grp == group.grp]
                replaced = [Version(one.current) for one in members if one.current]
                rotations.want(
                    c,
                    now,
                    group.vps,
                    group.grp,
                    [one.name for one in members],
                    reason="schedule",
                    asked_by="worker",
                    rotation_id=schedule.rotation_id(group.vps, group.grp, replaced),
                    due=group.due,
                )
                vpses.wake(c, group.vps)
        self.swept_at = time.time()
        return len(due)

    def press(self) -> int:
        """Have emergencies that were tried in vain tried before all else; alarm where one takes too long.

        Return how many take too long; not those of a VPS that is shut out, and waits for a person.
        """
        with self._means.database.read() as c:
            waiting = rotations.emergencies(c)
            found = [vpses.get(c, vps_id) for vps_id in sorted({order.vps for order in waiting})]
            shut_out = {row.id for row in found if row and row.state == "revoked"}
        now = self._means.now()
        late = [
            order
            for order in waiting
            if now - order.wanted_at > self._means.emergency_s
            and (order.last_error or order.vps not in shut_out)
        ]
        if waiting:
            with self._means.database.write() as c:
                vpses.press(c, engine.time_of(c), sorted({order.vps for order in waiting}))
        if late and steady() - self._alarmed_at >= ALARM_S:
            self._alarmed_at = steady()
            worst = max(late, key=lambda order: now - order.wanted_at)
            LOG.error(
                "ALARM: %d emergency rotations are not done after %.0f s; the first, of %s, for %.0f s: %s",
                len(late),
                self._means.emergency_s,
                worst.vps,
                now - worst.wanted_at,
                worst.last_error or "vps-secrets-deploy vps show says why",
            )
        return len(late)

    def unstick(self) -> None:
        """Bring back what a clock that was ahead has put into the far future."""
        if steady() - self._unstuck_at < UNSTICK_S:
            return
        self._unstuck_at = steady()
        longest = max(self._means.interval_s, PERMANENT_S) + self._means.lease_s + UNSTICK_S
        with self._means.database.write() as c:
            vpses.unstick(c, engine.time_of(c), longest)

    def _run(self, task: Callable[[], None]) -> None:
        """Run a task until the worker ends; a defect ends the worker, and is not shown with its values."""
        try:
            task()
        except Exception as error:  # noqa: BLE001  # whatever it is: nothing ends unseen
            self.defect = place_of(error)
            LOG.critical("a defect ended a task: %s. Please report it", self.defect)
            self._stop()

    def _work(self, owner: str) -> None:
        broke_off = False
        while not self._ending:
            try:
                if broke_off:  # what it had begun is taken up at once, not when the lease runs out
                    self._give_back(owner)
                    broke_off = False
                pause = 0.0 if self.run_one(owner) else self.idle_s()
                self._outage.answered()
            except DatabaseError as error:
                self._outage.failed(error, DATABASE_S)
                broke_off, pause = True, DATABASE_S
            if pause:
                self._sleep(pause)

    def _sweep(self) -> None:
        while not self._ending:
            pause = self._sweep_s
            try:
                while self._broken:
                    self._give_back(self._broken[0])
                    self._broken.popleft()  # not before: the database may be away again
                    self.wake()
                self.unstick()
                self.press()
                if self.want_due():
                    self.wake()
            except DatabaseError as error:
                self._outage.failed(error, DATABASE_S)
                pause = DATABASE_S
            self._sleep(pause)

    def _repeat(self, act: Callable[[], float]) -> None:
        while not self._ending:
            try:
                pause = act()
            except DatabaseError as error:
                self._outage.failed(error, DATABASE_S)
                pause = DATABASE_S
            self._rest(pause)

    def _rest(self, seconds: float) -> None:
        """Wait, though somebody wakes the worker."""
        end = steady() + seconds
        with self._woken:
            while not self._ending and (left := end - steady()) > 0:
                self._woken.wait(left)

    def _sleep(self, seconds: float) -> None:
        with self._woken:
            if not self._ending:
                self._woken.wait(seconds)


def place_name(place: str) -> str:
    """Return what the workers that listen at a place of this machine, one after the other, have in common.

    Machines that share a database need host names of their own; a copy of a machine has another machine-id.
    """
    machine = ""
    with contextlib.suppress(OSError):
        machine = Path("/etc/machine-id").read_text().strip()
    told = f"{machine}\n{socket.gethostname()}\n{place}\n"
    return hashlib.sha256(told.encode()).hexdigest()[:16] + "-"


def place_of(error: BaseException) -> str:
    """Return what kind of error arose where in the program; not its message, which could quote a value."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {Path(where.filename).name}:{where.lineno}"


def _after(error: VpsSecretsError, failures: int, *, hurries: bool) -> float:
    """Return how long to wait after this many failures in a row (s)."""
    if isinstance(error, DatabaseError) and error.retry:
        return DATABASE_S  # a server that was started again is there by then; a VPS is not to wait for it
    permanent = isinstance(error, KindError) and error.permanent
    retriable = not isinstance(error, (CloudError, DatabaseError)) or (
        isinstance(error, CloudError) and error.retriable
    )
    pause = schedule.backoff(failures) if retriable and not permanent else PERMANENT_S
    return min(pause, EMERGENCY_S) if hurries else pause
