"""``blueprint check|plan|apply``: from the operator's files to the database, told before it is done.

These work on the database itself, on the deployer's machine: whoever may change a blueprint may change what
every VPS has.
"""

from __future__ import annotations

import getpass
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from common.names import SecretName
from deployer.cli import screen
from deployer.cli.client import NO, OK
from deployer.config import blueprints as files
from deployer.config import reader
from deployer.config.zones import zone
from deployer.core import blueprint, blueprint_plan
from deployer.core.blueprint_plan import Effect, Held
from deployer.database import blueprints, rotations, secrets, vpses
from deployer.database.engine import open_database
from deployer.database.migrating import migrate
from deployer.database.schema import vps as vps_table

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from sqlalchemy.engine import Connection

    from deployer.core.blueprint import Blueprint
    from deployer.core.blueprint_plan import BlueprintPlan


def check(options: argparse.Namespace) -> int:
    """Say whether every file of the folder is right; it needs no database.

    With a folder, deployer.toml is not asked: that may be where your git is checked.

    Raises:
        ConfigurationError: all mistakes of all files.
    """
    found = _all(options)
    if options.folder is None:
        config = reader.load(options.config)
        files.check_targets(found, config.blueprints, config)
    for one in found.values():
        print(f"{one.name}: {len(one.secrets)} secrets in {len(one.groups())} groups, no mistake")
    return OK


def plan(options: argparse.Namespace) -> int:
    """Say what applying would do; exit with 1 where it would be refused."""
    return _plan_or_apply(options, apply=False)


def apply(options: argparse.Namespace) -> int:
    """Apply what differs, unless something of it is refused; then nothing is."""
    return _plan_or_apply(options, apply=True)


def _plan_or_apply(options: argparse.Namespace, *, apply: bool) -> int:
    config = reader.load(options.config)
    wanted = _all(options)
    files.check_targets(wanted, options.folder or config.blueprints, config)
    database = open_database(config.database)
    migrate(database)
    now = time.time()
    plans: dict[str, BlueprintPlan] = {}
    with database.write() if apply else database.read() as c:
        for name, one in wanted.items():
            plans[name] = _plan(c, one, now, remove=options.remove)
        refused = any(planned.refusals for planned in plans.values())
        if apply and not refused:
            for name, one in wanted.items():
                text = _file(options, name).read_text()
                blueprints.put(c, now, name, text, getpass.getuser())
                _rotate_what_is_made_otherwise(c, now, one, plans[name])
    database.close()
    _show(options, plans, applied=apply and not refused)
    return NO if refused else OK


def _plan(c: Connection, wanted: Blueprint, now: float, *, remove: bool) -> BlueprintPlan:
    kept = blueprints.get(c, wanted.name)
    before = None
    if kept is not None:
        before = blueprint.parse(kept.text.encode(), Path(f"{wanted.name}.toml"), zone)
    return blueprint_plan.plan(before, wanted, _held(c, wanted.name), now, remove=remove)


def _held(c: Connection, name: str) -> list[Held]:
    """Return what each VPS with this blueprint has."""
    ids = c.execute(select(vps_table.c.id).where(vps_table.c.blueprint == name)).scalars().all()
    made: dict[str, dict[SecretName, float]] = {vps_id: {} for vps_id in ids}
    for row in secrets.of_many(c, list(ids)):
        if row.created is not None:
            made[row.vps][SecretName(row.name)] = row.created
    return [Held(vps_id, created) for vps_id, created in made.items()]


def _rotate_what_is_made_otherwise(
    c: Connection, now: float, wanted: Blueprint, planned: BlueprintPlan
) -> None:
    """Have every VPS of a blueprint look at it; rotate the groups of what is made in another way now."""
    groups = {
        wanted.secrets[change.name].group for change in planned.changes if change.effect is Effect.ROTATE
    }
    for held in _held(c, wanted.name):
        for group in sorted(groups):
            names = [spec.name for spec in wanted.groups()[group] if spec.name in held.created]
            if names:
                actor = getpass.getuser()
                note = "its blueprint makes it in another way now"
                rotations.want(c, now, held.vps_id, group, names, reason="ordered", asked_by=actor, note=note)
        if planned.changes:
            vpses.wake(c, held.vps_id)


def _show(options: argparse.Namespace, plans: Mapping[str, BlueprintPlan], *, applied: bool) -> None:
    if options.json:
        screen.document({"applied": applied, "blueprints": {name: _json(one) for name, one in plans.items()}})
        return
    rows = [
        (name, change.name, change.effect, change.vpses, change.what + _due_now(change.due_now))
        for name, planned in plans.items()
        for change in planned.changes
    ]
    if rows:
        screen.table(("BLUEPRINT", "NAME", "EFFECT", "VPSS", "WHAT"), rows)
    else:
        print("nothing differs")
    for name, planned in plans.items():
        for refusal in planned.refusals:
            print(f"refused: {name}: {refusal}")
    if applied:
        print("applied; the worker carries it out")


def _due_now(count: int) -> str:
    return f"; work begins at once on {count}" if count else ""


def _json(planned: BlueprintPlan) -> dict[str, Any]:
    return {
        "changes": [
            {
                "name": one.name,
                "effect": one.effect,
                "what": one.what,
                "vps": one.vpses,
                "dueNow": one.due_now,
            }
            for one in planned.changes
        ],
        "refusals": list(planned.refusals),
    }


def _all(options: argparse.Namespace) -> Mapping[str, Blueprint]:
    return files.load_all(options.folder or reader.load(options.config).blueprints)


def _file(options: argparse.Namespace, name: str) -> Path:
    folder: Path = options.folder or reader.load(options.config).blueprints
    return folder / f"{name}.toml"
