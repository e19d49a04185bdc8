"""What a changed blueprint would do, told before it is applied: pure, and complete.

One :class:`Change` for each name that differs, with the number of VPSs that it reaches. What must not happen
by a changed file alone is *refused*, with what to do instead: a removal that nobody has confirmed; another
value for what old data were encrypted with; two VPSs on the same two roles of a database.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from common.durations import span
from deployer.core import schedule
from deployer.core.options import ExternalOptions, PostgresqlOptions

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from common.names import SecretName
    from deployer.core.blueprint import Blueprint, SecretSpec


class Effect(enum.StrEnum):
    """What applying it does to the VPSs that have the blueprint."""

    MAKE = "make"
    """A value is made where there is none."""
    AWAIT = "await"
    """A person or a portal has to give a value."""
    ROTATE = "rotate"
    """The value is replaced at once, since it is made in another way now."""
    RESCHEDULE = "reschedule"
    """It is due at another time from now on."""
    ADJUST = "adjust"
    """Its group, or how long former versions are kept, changes; no value does."""
    REMOVE = "remove"
    """It is taken away from the VPS and deleted."""


@dataclass(frozen=True, slots=True)
class Held:
    """What one VPS has: each name with the date of its current version (s)."""

    vps_id: str
    created: Mapping[SecretName, float]


@dataclass(frozen=True, slots=True)
class Change:
    """One name that differs. ``vpses``: how many VPSs it reaches.

    ``due_now``: on how many of them work begins at once, since the new interval has passed already.
    """

    name: SecretName
    effect: Effect
    what: str
    vpses: int
    due_now: int = 0


@dataclass(frozen=True, slots=True)
class BlueprintPlan:
    """The changes, removals last, and why it must not be applied; it may where ``refusals`` is empty."""

    changes: tuple[Change, ...]
    refusals: tuple[str, ...]


_NOT_THERE: Final = "is not in the blueprint any more"


def plan(
    before: Blueprint | None, after: Blueprint, held: Sequence[Held], now: float, *, remove: bool = False
) -> BlueprintPlan:
    """Return what applying ``after`` does to these VPSs, which have ``before`` (None where it is new).

    A name that a VPS has already is adopted, not made. ``remove`` confirms that names may be taken away.
    """
    former = before.secrets if before is not None else {}
    changes: list[Change] = []
    for name, spec in after.secrets.items():
        changes += _of_name(former.get(name), spec, held, now)
    for name in former:
        if name not in after.secrets:
            vpses = sum(name in vps.created for vps in held)
            changes.append(Change(name, Effect.REMOVE, _NOT_THERE, vpses))
    return BlueprintPlan(tuple(changes), tuple(_refusals(former, after, changes, len(held), remove=remove)))


def _of_name(
    former: SecretSpec | None, spec: SecretSpec, held: Sequence[Held], now: float
) -> Iterator[Change]:
    lacking = sum(spec.name not in vps.created for vps in held)
    having = len(held) - lacking
    external = isinstance(spec.options, ExternalOptions)
    if lacking or former is None:
        effect = Effect.AWAIT if external else Effect.MAKE
        yield Change(spec.name, effect, "waits for its value" if external else spec.kind, lacking)
    if former is None:
        return
    if former.options != spec.options:
        what = f"kind was {former.kind}, is {spec.kind}"
        if former.kind == spec.kind:
            what = "is made with other keys"
        elif external:
            what += "; the value stays until another one is given"
        yield Change(spec.name, Effect.ADJUST if external else Effect.ROTATE, what, having)
    if (former.rotate_s, str(former.window)) != (spec.rotate_s, str(spec.window)):
        what = f"rotate was {_interval(former)}, is {_interval(spec)}"
        yield Change(spec.name, Effect.RESCHEDULE, what, having, _due_now(spec, held, now))
    kept = _without_value_and_schedule(former, spec)
    if kept != spec:
        words = [
            word
            for word, differs in (
                (f"group is {spec.group}", kept.group != spec.group),
                ("keep_previous differs", kept.keep_previous_s != spec.keep_previous_s),
                (f"rollback_for is {span(spec.rollback_for_s)}", kept.rollback_for_s != spec.rollback_for_s),
            )
            if differs
        ]
        yield Change(spec.name, Effect.ADJUST, ", ".join(words), having)


def _without_value_and_schedule(former: SecretSpec, spec: SecretSpec) -> SecretSpec:
    """Return the former one with all of the new one but its group and how long versions are kept."""
    return replace(
        spec,
        group=former.group,
        keep_previous_s=former.keep_previous_s,
        rollback_for_s=former.rollback_for_s,
    )


def _interval(spec: SecretSpec) -> str:
    every = "never" if spec.rotate_s is None else span(spec.rotate_s)
    return f"{every} in {spec.window}" if spec.window else every


def _due_now(spec: SecretSpec, held: Sequence[Held], now: float) -> int:
    """Return on how many VPSs the work on it begins at once."""
    if spec.rotate_s is None:
        return 0
    lead = schedule.lead(spec.rotate_s)
    moments = (
        schedule.work_at(made + spec.rotate_s, lead, vps.vps_id, spec.group, spec.window)
        for vps in held
        if (made := vps.created.get(spec.name)) is not None
    )
    return sum(moment <= now for moment in moments)


def _refusals(
    former: Mapping[SecretName, SecretSpec],
    after: Blueprint,
    changes: Sequence[Change],
    vpses: int,
    *,
    remove: bool,
) -> Iterator[str]:
    for change in changes:
        old = former.get(change.name)
        if change.effect is Effect.REMOVE and not remove:
            yield f"{change.name}: {_NOT_THERE}; if it is to be deleted, apply again with --remove"
        if change.effect is Effect.ROTATE and change.vpses and old is not None and old.rotate_s is None:
            yield (
                f'{change.name}: has rotate = "never", so old data may need its value; '
                "add the new one under another name"
            )
    for name, spec in after.secrets.items():
        if isinstance(spec.options, PostgresqlOptions) and spec.options.is_shared and vpses > 1:
            yield (
                f"{name}: {vpses} VPSs would change the password of the same roles; "
                "write {vps} into both names of roles"
            )
