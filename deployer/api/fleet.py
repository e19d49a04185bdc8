"""How the VPSs look, worst first: which are late, failing, joining, expiring. Questions to the database only.

One look is a word for one VPS: the first of :data:`LOOKS` that fits. It is computed from dates and states
whenever somebody asks, so it can't be out of date.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Integer, and_, case, func, literal, or_, select, union

from deployer.core.model import EXTERNAL
from deployer.database.schema import rotation, secret, vps
from deployer.database.vpses import VpsRow

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from sqlalchemy.engine import Connection

LOOKS: Final = ("late", "failing", "joining", "expiring", "revoked", "retired", "fine")
"""Worst first; what is wanted so (revoked, retired) needs nobody."""
EXPIRES_S: Final = 14 * 86400.0
"""How long before its date a value that only a person can give counts as expiring."""
LONG_S: Final = 3600.0
"""A VPS that was asked for so long ago and never served needs somebody."""
CURSOR: Final = ":"


@dataclass(frozen=True, slots=True)
class Seen:
    """A VPS, how it looks, when the first of its secrets is due, and why its latest rotation failed last."""

    vps: VpsRow
    look: str
    next_due: float | None
    error: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which VPSs are asked for. ``text`` is a part of the id; ``label`` a name with its value."""

    look: str | None = None
    label: tuple[str, str] | None = None
    text: str = ""


def counts(c: Connection, now: float) -> Mapping[str, int]:
    """Return how many VPSs have each look."""
    rank = _rank(now)
    found = {LOOKS[each.rank]: int(each.n) for each in c.execute(_counted(rank))}
    return {look: found.get(look, 0) for look in LOOKS}


def joining_long(c: Connection, now: float) -> int:
    """Return how many VPSs are joining that were asked for :data:`LONG_S` ago or longer."""
    joins = _rank(now) == LOOKS.index("joining")
    found = select(func.count()).select_from(vps).where(joins, vps.c.created_at <= now - LONG_S)
    return int(c.execute(found).scalar_one())


def worst_first(
    c: Connection, now: float, wanted: Wanted, after: str = "", limit: int = 100
) -> tuple[tuple[Seen, ...], str | None]:
    """Return one page, and where the next one begins. ``after`` is what the page before said."""
    rank = _rank(now)
    query = _chosen(c, select(vps, rank.label("rank")), rank, wanted)
    last_rank, _, last_id = after.partition(CURSOR)
    if last_rank.isascii() and last_rank.isdigit() and last_id:
        at = min(int(last_rank), len(LOOKS))
        query = query.where(or_(rank > at, and_(rank == at, vps.c.id > last_id)))
    rows = c.execute(query.order_by("rank", vps.c.id).limit(limit + 1)).all()
    page = _seen(c, rows[:limit])
    more = f"{LOOKS.index(page[-1].look)}{CURSOR}{page[-1].vps.id}" if len(rows) > limit else None
    return page, more


def by_id(
    c: Connection, now: float, wanted: Wanted, after: str = "", limit: int = 100
) -> tuple[tuple[Seen, ...], str | None]:
    """Return one page in the order of ids, and the id after which the next one begins."""
    rank = _rank(now)
    query = _chosen(c, select(vps, rank.label("rank")), rank, wanted).where(vps.c.id > after)
    rows = c.execute(query.order_by(vps.c.id).limit(limit + 1)).all()
    page = _seen(c, rows[:limit])
    return page, page[-1].vps.id if len(rows) > limit else None


def one(c: Connection, now: float, vps_id: str) -> Seen | None:
    """Return one VPS, or None."""
    found = c.execute(select(vps, _rank(now).label("rank")).where(vps.c.id == vps_id)).all()
    return _seen(c, found)[0] if found else None


def ids(c: Connection, wanted: Wanted, *, wanted_state: str = "present") -> tuple[tuple[str, int], ...]:
    """Return id and wave of every VPS that fits and is wanted so, wave by wave."""
    query = select(vps.c.id, vps.c.wave).where(vps.c.wanted == wanted_state)
    if wanted.label is not None:
        query = query.where(_has_label(c, wanted.label))
    return tuple((str(row.id), int(row.wave)) for row in c.execute(query.order_by(vps.c.wave, vps.c.id)))


def meant(c: Connection, labels: Mapping[str, str]) -> dict[str, int]:
    """Return the VPSs that are wanted and have all of these labels, each with its wave."""
    found = dict(ids(c, Wanted()))
    for label in labels.items():
        having = dict(ids(c, Wanted(label=label)))
        found = {vps_id: wave for vps_id, wave in found.items() if vps_id in having}
    return found


def is_known(c: Connection, names: Collection[str]) -> bool:
    """Tell whether any VPS has a secret of any of these names."""
    there = select(secret.c.name).where(secret.c.name.in_(sorted(names)))
    return c.execute(there.limit(1)).first() is not None


def _rank(now: float) -> Any:
    """Return the place in :data:`LOOKS` of a VPS."""
    late = union(
        select(rotation.c.vps).where(rotation.c.ended_at.is_(None), rotation.c.due < now),
        select(secret.c.vps).where(secret.c.due < now),
    )
    soon = select(secret.c.vps).where(
        secret.c.due >= now, secret.c.due < now + EXPIRES_S, secret.c.kind == EXTERNAL
    )
    order = {look: literal(place, Integer) for place, look in enumerate(LOOKS)}
    return case(
        (vps.c.wanted == "retired", order["retired"]),
        (vps.c.failures > 0, case((vps.c.id.in_(late), order["late"]), else_=order["failing"])),
        (vps.c.wanted == "revoked", order["revoked"]),
        (vps.c.id.in_(late), order["late"]),
        (vps.c.served == "", order["joining"]),
        (vps.c.id.in_(soon), order["expiring"]),
        else_=order["fine"],
    )


def _counted(rank: Any) -> Any:
    looks = select(rank.label("rank")).select_from(vps).subquery()
    return select(looks.c.rank, func.count().label("n")).group_by(looks.c.rank)


def _chosen(c: Connection, query: Any, rank: Any, wanted: Wanted) -> Any:
    if wanted.look is not None:
        query = query.where(rank == LOOKS.index(wanted.look))
    if wanted.text:
        query = query.where(_place(c)(vps.c.id, wanted.text, type_=Integer) > 0)
    if wanted.label is not None:
        query = query.where(_has_label(c, wanted.label))
    return query


def _has_label(c: Connection, label: tuple[str, str]) -> Any:
    """Labels are one JSON text; the contract lets neither name nor value hold what JSON escapes."""
    name, value = label
    return _place(c)(vps.c.labels, f'"{name}":"{value}"', type_=Integer) > 0


def _place(c: Connection) -> Any:
    return func.instr if c.dialect.name == "sqlite" else func.strpos


def _seen(c: Connection, rows: Any) -> tuple[Seen, ...]:
    fields = VpsRow.__dataclass_fields__
    found = [(VpsRow(**{name: row._mapping[name] for name in fields}), row.rank) for row in rows]  # noqa: SLF001
    if not found:
        return ()
    ids = [row.id for row, _ in found]
    first = select(secret.c.vps, func.min(secret.c.due).label("due")).group_by(secret.c.vps)
    due = {str(each.vps): each.due for each in c.execute(first.where(secret.c.vps.in_(ids)))}
    failed = select(rotation.c.vps, rotation.c.last_error).where(
        rotation.c.vps.in_(ids), rotation.c.ended_at.is_(None), rotation.c.last_error != ""
    )
    errors = {
        str(each.vps): str(each.last_error) for each in c.execute(failed.order_by(rotation.c.due.desc()))
    }
    return tuple(Seen(row, LOOKS[int(rank)], due.get(row.id), errors.get(row.id, "")) for row, rank in found)
