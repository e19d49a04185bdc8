"""What a look found and did, written down in one transaction: the VPS, its secrets, its rotations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from common.acknowledgement import consumer_of, served_digest
from common.names import SecretName
from deployer.cloud.errors import CloudError
from deployer.core import planning
from deployer.database import engine, rotations, secrets, vpses
from deployer.worker import joining, wanted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy.engine import Connection

    from deployer.core.model import Observed
    from deployer.database.rotations import RotationRow
    from deployer.database.vpses import VpsRow
    from deployer.worker.means import Means, State

PROVISIONING: Final = "provisioning"
LISTED: Final = "listed"
SERVING: Final = "serving"
WAITING: Final = "waiting-for-key"
TWO_KEYS: Final = "two-keys"
NO_KEY: Final = "claimed-without-key"
CLAIMED: Final = frozenset({LISTED, SERVING, WAITING, TWO_KEYS, NO_KEY})
RETRY_S: Final = 60.0
ROLLBACK_RESTS_S: Final = 86400.0
"""So long the schedule of a group rests after a rollback: what made one roll back would be made again."""
JOINING_S: Final = 5.0
"""Between two questions whether a new VPS has claimed its user, or has registered its key."""
WAITING_PART: Final = 60.0
"""One that waits long for its key is looked at after so many parts of its age."""
ARRIVING_S: Final = 5.0
"""The shortest time between two looks for the arrival of a rotation."""
LOST_VALUE_S: Final = 600.0
"""A rotation that waits for a value that this long nobody has: it was lost with a worker."""


@dataclass(frozen=True, slots=True)
class Found:
    """The end of a look. ``finished`` are orders that are listed; the other two have reasons."""

    state: State
    observed: Observed
    finished: frozenset[str]
    remarks: Mapping[SecretName, str]
    """What a person has to do about a name."""
    given_up: Mapping[str, str]
    """By the order's id."""
    blocked: Mapping[str, str]
    """By the group's name: its third party, or a value, is missing."""
    never_joined: bool = False
    """Whether its user was claimed, and its key never came (deployer/worker/joining.py)."""
    shut_out: bool = True
    """Whether the user of a VPS that is to have no access could be disabled."""
    wrong_keys: bool = False
    """Whether more than one key is registered, or another one than before without a claim."""


def hopeless(
    order: RotationRow, state: State, observed: Observed, waits: Callable[[SecretName], bool], now: float
) -> str:
    """Return why an order can't be done any more, or nothing."""
    made = {one.version for one in observed.made}
    if not set(order.targets.values()) <= made:
        return "the former version has been deleted"
    specs = [state.blueprint.secrets.get(SecretName(name)) for name in order.names]
    if not any(specs):
        return "the blueprint has none of its names any more"
    needs = [spec.name for spec in specs if spec is not None and spec.kind == "external"]
    late = now - order.wanted_at > LOST_VALUE_S
    if late and not all(waits(name) for name in needs):
        return "the value that was given is lost: a worker ended before it was stored. Give it again"
    return ""


class Recorder:
    """Writes down the looks at one VPS whose lease ``owner`` has."""

    def __init__(self, means: Means, row: VpsRow, owner: str) -> None:
        self._means = means
        self._row = row
        self._owner = owner
        self._unasked: CloudError | None = None
        """Why the registrar could not be asked."""

    def write(self, found: Found) -> float:
        """Write down what is there now, and how far the rotations are; return when to look again (s).

        Raises:
            CloudError: the registrar does not say whether the VPS has claimed its user; the rest is written.
            DatabaseError: nothing was written; LeaseLostError: somebody else has the VPS.
        """
        state, observed, row, now = found.state, found.observed, self._row, self._means.now()
        index = planning.Index(observed)
        versions = [made for name in index.entries if (made := index.current(name))]
        current = {made.name: made.version for made in versions}
        digest = served_digest(current)
        arrived = bool(current) and consumer_of(digest)["URL"] in observed.consumers
        news = arrived and row.served != digest
        word = self._word(found, arrived=arrived)
        with self._means.database.write() as c:
            if word in CLAIMED and row.state not in CLAIMED:
                joining.claimed(c, now, row.id)
            vpses.seen(
                c,
                engine.time_of(c),
                row.id,
                self._owner,
                container=observed.container or "",
                granted_to=observed.granted_to,
                state=word,
                looked_at=now,
                served=digest if arrived else row.served,
                served_at=now if news else row.served_at,
            )
            secrets.versions_seen(c, now, row.id, observed.made)
            rows = wanted.seen(row.id, state.blueprint, observed, _resting(c, row.id), found.remarks)
            secrets.seen(c, row.id, rows)
            work_at = {one.grp: one.work_at for one in rows if one.work_at is not None}
            pauses = [
                pause
                for order in state.orders
                if (pause := _advance(c, now, order, found, work_at.get(order.grp), arrived=arrived))
            ]
        if word == joining.JOINING:
            pauses.append(JOINING_S)
        if word == LISTED and versions:  # no order waits for what a new VPS serves first
            pauses.append(arriving_pause(now - max(made.created for made in versions)))
        if word == WAITING:
            pauses.append(max(JOINING_S, (now - row.created_at) / WAITING_PART))
        if self._unasked is not None:
            raise self._unasked
        return min([self._means.interval_s, *pauses])

    def _word(self, found: Found, *, arrived: bool) -> str:
        """Return what people read about a VPS in lists."""
        row, observed = self._row, found.observed
        if row.wanted != "present":
            if not found.shut_out:
                return row.state  # so that it is tried again
            return row.wanted if observed.granted_to == "" or observed.container is None else row.state
        if observed.container is None:
            return PROVISIONING
        if row.state not in CLAIMED and not self._claimed():
            return joining.JOINING
        if found.wrong_keys:
            return TWO_KEYS
        if row.sealing == "required" and not observed.keys:
            return NO_KEY if found.never_joined else WAITING
        return SERVING if arrived else LISTED

    def _claimed(self) -> bool:
        try:
            return self._means.registrar.claimed(self._row.id)
        except CloudError as error:
            self._unasked = error
            return False


def _advance(
    c: Connection, now: float, order: RotationRow, found: Found, next_work: float | None, *, arrived: bool
) -> float | None:
    """Write how far an order is; return when to look for it again (s), None where it has ended."""
    listed_at = now if order.id in found.finished else order.listed_at
    if order.id in found.finished:
        rotations.progress(c, order.id, "listed", now)
    if order.id in found.given_up:
        _give_up(c, now, order, found.given_up[order.id])
        return None
    if listed_at is None:
        if order.grp in found.blocked:
            rotations.failed(c, order.id, found.blocked[order.grp])
        return RETRY_S
    if arrived:
        rotations.progress(c, order.id, "arrived", now)
        return None
    if next_work is not None and next_work <= now:
        _give_up(c, now, order, "the VPS never said that it serves this, and the next one is due")
        return None
    return arriving_pause(now - listed_at)


def arriving_pause(listed_s: float) -> float:
    """Return when to look again for the arrival of what has been listed for so long (s)."""
    return max(ARRIVING_S, listed_s / 2)


def _give_up(c: Connection, now: float, order: RotationRow, reason: str) -> None:
    rotations.failed(c, order.id, reason)
    rotations.progress(c, order.id, "given-up", now)


def _resting(c: Connection, vps_id: str) -> dict[str, float]:
    """Return until when the schedule of a group that was rolled back rests."""
    return {
        order.grp: order.wanted_at + ROLLBACK_RESTS_S
        for order in reversed(rotations.page(c, vps_id=vps_id, limit=100))
        if order.reason == "rollback" and order.state != "given-up"
    }
