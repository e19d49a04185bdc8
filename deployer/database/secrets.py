"""What each VPS has, as Barbican told it last: secrets with their dates, and versions. Never a value."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from sqlalchemy import and_, delete, func, literal_column, select, update

from deployer.database.schema import rotation, secret, version, vps
from deployer.database.statements import each, upsert

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy.engine import Connection

    from deployer.core.model import Made


@dataclass(frozen=True, slots=True)
class SeenSecret:
    """One name as a look found it. ``current`` is the version that the container lists; None: there is none.

    ``due`` and ``work_at`` follow from ``created``; None where nothing is to happen by itself. ``remark``
    says what a person has to do about it, "" for nothing.
    """

    name: str
    kind: str
    grp: str
    current: str | None = None
    created: float | None = None
    due: float | None = None
    work_at: float | None = None
    remark: str = ""


@dataclass(frozen=True, slots=True)
class SecretRow:
    """One name of one VPS. ``state``: ``wanted``, ``current`` or ``rotating``."""

    vps: str
    name: str
    kind: str
    grp: str
    current: str | None
    created: float | None
    due: float | None
    work_at: float | None
    state: str
    remark: str = ""


@dataclass(frozen=True, slots=True)
class VersionRow:
    """One secret object of Barbican. ``gone_at``: when a look did not find it any more.

    ``sequence`` and ``sealed_to`` are those of its marks (deployer/core/model.py); 0 and "" without a seal.
    """

    uuid: str
    vps: str
    name: str
    created: float
    rotation: str
    kind: str
    slot: str
    first_seen: float
    gone_at: float | None
    sequence: int = 0
    sealed_to: str = ""


@dataclass(frozen=True, slots=True)
class DueGroup:
    """Secrets of one VPS that change together, and whose time has come."""

    vps: str
    grp: str
    due: float
    work_at: float


def of(c: Connection, vps_id: str) -> tuple[SecretRow, ...]:
    """Return the secrets of a VPS in the order of their names."""
    query = select(secret).where(secret.c.vps == vps_id).order_by(secret.c.name)
    return each(SecretRow, c.execute(query))


def of_many(c: Connection, vps_ids: Sequence[str]) -> tuple[SecretRow, ...]:
    """Return the secrets of these VPSs, such as those of one page."""
    query = select(secret).where(secret.c.vps.in_(list(vps_ids))).order_by(secret.c.vps, secret.c.name)
    return each(SecretRow, c.execute(query))


def seen(c: Connection, vps_id: str, found: Iterable[SeenSecret]) -> None:
    """Write what a VPS has now, instead of what was known. Nothing is written where nothing has changed.

    Of a name that is missing now the date of its last version stays: so it is known that there was one.
    """
    open_groups = set(
        c.execute(select(rotation.c.grp).where(rotation.c.vps == vps_id, rotation.c.ended_at.is_(None)))
        .scalars()
        .all()
    )
    known = {row.name: row for row in of(c, vps_id)}
    rows = {}
    for each_found in found:
        row = SecretRow(vps=vps_id, state=_state(each_found, open_groups), **asdict(each_found))
        if row.current is None and row.name in known:
            row = replace(row, created=known[row.name].created)
        rows[row.name] = row
    upsert(c, secret, [asdict(row) for name, row in rows.items() if known.get(name) != row])
    gone = sorted(known.keys() - rows.keys())
    if gone:
        c.execute(delete(secret).where(secret.c.vps == vps_id, secret.c.name.in_(gone)))


def due_groups(c: Connection, now: float, limit: int = 100, *, to_want: bool = False) -> tuple[DueGroup, ...]:
    """Return groups whose time to be worked on has come, and which do not rotate yet; the earliest first.

    At most ``limit`` secrets are looked at, so there may be fewer groups than are due. Those of a VPS that is
    revoked or retired rest. ``to_want``: the same transaction wants rotations of them. Then no VPS that
    another transaction has to itself is among them: it is found the next time, and nobody waits in a circle.
    """
    first = (
        select(secret.c.vps, secret.c.grp)
        .join(vps, vps.c.id == secret.c.vps)
        # literal, or SQLite does not see that its partial index fits
        .where(secret.c.state == literal_column("'current'"), secret.c.work_at <= now)
        .where(vps.c.wanted == "present")
        .order_by(secret.c.work_at)
        .limit(limit)
    )
    if to_want:
        first = first.with_for_update(of=vps, skip_locked=True)
    found = first.subquery()
    groups = select(found.c.vps, found.c.grp).distinct().subquery()
    whole = (
        select(
            secret.c.vps,
            secret.c.grp,
            func.min(secret.c.due).label("due"),
            func.min(secret.c.work_at).label("work_at"),
        )
        .join(groups, and_(groups.c.vps == secret.c.vps, groups.c.grp == secret.c.grp))
        .group_by(secret.c.vps, secret.c.grp)
        .order_by(func.min(secret.c.work_at), secret.c.vps, secret.c.grp)
    )
    return each(DueGroup, c.execute(whole))


def due_before(c: Connection, moment: float, limit: int = 100) -> tuple[SecretRow, ...]:
    """Return the secrets that are due before a moment, the earliest first, whatever is done about them."""
    query = select(secret).where(secret.c.due < moment).order_by(secret.c.due).limit(limit)
    return each(SecretRow, c.execute(query))


def versions_seen(c: Connection, now: float, vps_id: str, made: Iterable[Made]) -> None:
    """Write which versions a look found, and which it did not find any more."""
    known = {row.uuid: row for row in versions_of(c, vps_id)}
    rows = []
    for one in made:
        marks = one.marks
        row = VersionRow(
            uuid=one.version,
            vps=vps_id,
            name=one.name,
            created=one.created,
            rotation=marks.rotation if marks else "",
            kind=marks.kind if marks else "",
            slot=marks.slot if marks else "",
            first_seen=known[one.version].first_seen if one.version in known else now,
            gone_at=None,
            sequence=marks.sequence if marks else 0,
            sealed_to=marks.key if marks else "",
        )
        if known.pop(one.version, None) != row:
            rows.append(asdict(row))
    upsert(c, version, rows)
    gone = sorted(known)
    if gone:
        c.execute(update(version).where(version.c.uuid.in_(gone)).values(gone_at=now))


def versions_of(c: Connection, vps_id: str, *, gone: bool = False) -> tuple[VersionRow, ...]:
    """Return the versions of a VPS, the newest first; with ``gone`` also those that were deleted."""
    query = (
        select(version)
        .where(version.c.vps == vps_id)
        .order_by(version.c.name, version.c.created.desc(), version.c.uuid)
    )
    return each(VersionRow, c.execute(query if gone else query.where(version.c.gone_at.is_(None))))


def _state(found: SeenSecret, open_groups: set[str]) -> str:
    if found.current is None:
        return "wanted"
    return "rotating" if found.grp in open_groups else "current"
