"""deployer/core/blueprint_plan.py: what a changed blueprint does, to how many VPSs, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.names import SecretName
from deployer.config.zones import zone
from deployer.core.blueprint import Blueprint, parse
from deployer.core.blueprint_plan import Effect, Held, plan
from deployer.core.schedule import DAY_S

NOW: Final = 1_800_000_000.0
DATABASE: Final = 'kind = "postgresql"\nserver = "db1"\ntemplate = "{role}:{password}"\nrotate = "30d"\n'


def _blueprint(**secrets: str) -> Blueprint:
    text = "".join(f"[{name}]\n{keys}\n" for name, keys in secrets.items())
    return parse(text.encode(), Path("b.toml"), zone)


def _random(rotate: str = "30d", more: str = "") -> str:
    return f'kind = "random"\nrotate = "{rotate}"\n{more}'


def _held(*names: str, vpses: int = 3, age_days: float = 20.0) -> list[Held]:
    created = {SecretName(name): NOW - age_days * DAY_S for name in names}
    return [Held(f"vps-{number}", created) for number in range(vpses)]


def test_a_new_blueprint_makes_what_the_vpses_lack_and_adopts_what_they_have() -> None:
    """An external one waits for somebody."""
    after = _blueprint(A=_random(), B=_random(), C='kind = "external"\nrotate = "180d"')
    found = plan(None, after, [*_held("A", "B"), *_held("A", vpses=2)], NOW)
    assert [(change.name, change.effect, change.vpses) for change in found.changes] == [
        ("A", Effect.MAKE, 0),
        ("B", Effect.MAKE, 2),
        ("C", Effect.AWAIT, 5),
    ]
    assert found.refusals == ()


def test_an_unchanged_one_changes_nothing() -> None:
    """A wish that is met makes no call."""
    one = _blueprint(A=_random(), B=f'{DATABASE}roles = ["{{vps}}_a", "{{vps}}_b"]')
    assert plan(one, one, _held("A", "B"), NOW).changes == ()


def test_a_removal_needs_a_word_of_its_own() -> None:
    """It is planned either way, and told how to confirm it."""
    before, after = _blueprint(A=_random(), B=_random()), _blueprint(A=_random())
    found = plan(before, after, _held("A", "B"), NOW)
    assert [(change.name, change.effect, change.vpses) for change in found.changes] == [
        ("B", Effect.REMOVE, 3)
    ]
    (refusal,) = found.refusals
    assert refusal.startswith("B: ")
    assert "--remove" in refusal
    assert plan(before, after, _held("A", "B"), NOW, remove=True).refusals == ()


@pytest.mark.parametrize(
    ("before", "after", "effect", "told"),
    [
        (_random(), _random(more="bytes = 48"), Effect.ROTATE, "other keys"),
        (_random(), 'kind = "password"\nrotate = "30d"', Effect.ROTATE, "kind was random, is password"),
        (_random(), 'kind = "external"\nrotate = "30d"', Effect.ADJUST, "stays until"),
        (_random(), _random("90d"), Effect.RESCHEDULE, "rotate was 30 d, is 90 d"),
        (_random(), _random("never"), Effect.RESCHEDULE, "is never"),
        (_random(), _random(more='window = "02:00-03:00 UTC"'), Effect.RESCHEDULE, "30 d in 02:00-03:00 UTC"),
        (_random(), _random(more='group = "g"'), Effect.ADJUST, "group is g"),
        (_random(), _random(more='keep_previous = "1h"'), Effect.ADJUST, "keep_previous differs"),
        (_random(), _random(more='rollback_for = "2h"'), Effect.ADJUST, "rollback_for is 2 h"),
    ],
)
def test_what_a_changed_key_does(before: str, after: str, effect: Effect, told: str) -> None:
    """Only another way of making the value replaces it."""
    found = plan(_blueprint(A=before), _blueprint(A=after), _held("A"), NOW)
    (change,) = found.changes
    assert (change.effect, change.vpses) == (effect, 3)
    assert told in change.what
    assert found.refusals == ()


def test_a_shorter_interval_tells_how_many_begin_at_once() -> None:
    """So that nobody rotates a fleet by a typing error."""
    before, after = _blueprint(A=_random("90d")), _blueprint(A=_random("7d"))
    held = [*_held("A", vpses=4), *_held("A", vpses=2, age_days=1)]
    (change,) = plan(before, after, held, NOW).changes
    assert (change.effect, change.vpses, change.due_now) == (Effect.RESCHEDULE, 6, 4)


def test_what_old_data_need_is_not_replaced_by_a_changed_file() -> None:
    """Where a VPS has it; else there is nothing to lose."""
    before, after = _blueprint(A=_random("never")), _blueprint(A=_random("never", "bytes = 48"))
    (refusal,) = plan(before, after, _held("A"), NOW).refusals
    assert "another name" in refusal
    assert plan(before, after, [], NOW).refusals == ()
    external = _blueprint(A='kind = "external"\nrotate = "never"')
    assert plan(external, external, _held("B"), NOW).refusals == ()


def test_two_vpses_on_the_same_roles_are_refused() -> None:
    """Each would change the password that the other has."""
    shared = _blueprint(A=f'{DATABASE}roles = ["a", "b"]')
    own = _blueprint(A=f'{DATABASE}roles = ["{{vps}}_a", "{{vps}}_b"]')
    assert "{vps}" in plan(None, shared, _held(vpses=2), NOW).refusals[0]
    assert plan(None, shared, _held(vpses=1), NOW).refusals == ()
    assert plan(None, own, _held(vpses=2), NOW).refusals == ()


KEYS: Final = st.sampled_from(
    [
        _random(),
        _random("90d"),
        _random("never"),
        _random(more="bytes = 48"),
        'kind = "external"\nrotate = "90d"',
    ]
)
BLUEPRINTS: Final = st.dictionaries(st.sampled_from("ABCD"), KEYS, min_size=1).map(lambda d: _blueprint(**d))


@given(BLUEPRINTS, BLUEPRINTS, st.lists(st.sets(st.sampled_from("ABCD")), max_size=4))
def test_every_difference_is_told(before: Blueprint, after: Blueprint, having: list[set[str]]) -> None:
    """Each name that differs or is lacking has a change, no other has; and nothing is removed unconfirmed."""
    held = [Held(f"vps-{n}", {SecretName(name): NOW for name in names}) for n, names in enumerate(having)]
    found = plan(before, after, held, NOW)
    told = {change.name for change in found.changes}
    differs = {
        name
        for name in {**before.secrets, **after.secrets}
        if before.secrets.get(name) != after.secrets.get(name)
    }
    lacking = {name for name in after.secrets if any(name not in vps.created for vps in held)}
    assert told == differs | lacking
    removed = {change.name for change in found.changes if change.effect is Effect.REMOVE}
    assert removed == before.secrets.keys() - after.secrets.keys()
    assert bool(removed) <= bool(found.refusals)
    assert all(0 <= change.due_now <= change.vpses <= len(held) for change in found.changes)
