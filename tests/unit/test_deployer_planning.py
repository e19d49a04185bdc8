"""The planner: from any state of a container to what is wanted, whatever broke off before.

A model of Barbican stands for the real one: it does one call after the other and can break off after each.
After every call an agent looks.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from common import sealing_key
from common.names import SecretName, Version
from common.sealing_key import Announced
from deployer.core import planning
from deployer.core.model import (
    Action,
    AddEntry,
    CreateContainer,
    DeleteContainer,
    DeleteSecret,
    Desired,
    Entry,
    Grant,
    Made,
    Make,
    Observed,
    RemoveEntry,
    Rotation,
    Wish,
    fingerprint,
)

if TYPE_CHECKING:
    from collections.abc import Callable

USER: Final = "u" * 32
DAY: Final = 86400.0
GROUPS: Final = {"A": "pair", "B": "pair", "C": "C", "D": "D", "E": "pair"}
SLOTS: Final = ("app_a", "app_b")


def wish(name: str, *, may_make: bool = True, last: Version | None = None) -> Wish:
    """Return what D, the database's secret, or one of the others should be."""
    slots = SLOTS if name == "D" else ()
    kind = "postgresql" if slots else "random"
    return Wish(SecretName(name), kind, GROUPS[name], slots, DAY, may_make=may_make, last=last)


class EndedError(Exception):
    """The deployer ended in the middle."""


@dataclass
class Barbican:
    """What Barbican has, call by call; ``left`` is how many calls go well before the deployer ends."""

    has: Observed = field(default_factory=Observed)
    now: float = 1_000_000.0
    left: int = 10_000
    number: int = 0
    used: set[Entry] = field(default_factory=set)
    watch: Callable[[], None] = lambda: None

    def call(self, observed: Observed) -> None:
        """Make one call, unless the deployer has ended before it."""
        if not self.left:
            raise EndedError
        self.left -= 1
        self.now += 0.05
        self.has = observed
        self.watch()

    def new(self) -> Version:
        """Return the name of something new."""
        self.number += 1
        return Version(f"00000000-0000-0000-0000-{self.number:012x}")

    def do(self, action: Action) -> None:
        """Take one step, in the calls that it needs."""
        has = self.has
        match action:
            case Make(name, marks):
                version = self.new()
                unfinished = Made(name, version, self.now, None)
                self.call(replace(has, made=has.made | {unfinished}))
                self.call(
                    replace(self.has, made=self.has.made - {unfinished} | {replace(unfinished, marks=marks)})
                )
            case CreateContainer(user_id, entries):
                assert has.container is None
                self.used = set(entries)
                self.call(replace(has, container=self.new(), entries=entries, granted_to=None))
                self.call(replace(self.has, granted_to=user_id))
            case Grant(user_id):
                self.call(replace(has, granted_to=user_id))
            case AddEntry(entry):
                assert has.container, "an entry of no container"
                while entry in self.used:  # Barbican answers 500, and the worker takes another K
                    entry = replace(entry, k=planning.next_k(entry.k, self.now))
                self.used.add(entry)
                self.call(planning.after(has, AddEntry(entry)))
            case RemoveEntry(entry):
                assert entry in has.entries
                self.call(planning.after(has, action))
            case DeleteSecret() | DeleteContainer():
                self.call(planning.after(has, action))


def current(observed: Observed) -> dict[SecretName, Version]:
    """Return what an agent would serve of the names that stand there once."""
    live = defaultdict(list)
    made = {one.version for one in observed.made}
    for entry in observed.entries:
        if entry.version in made:
            live[entry.name].append(entry.version)
    return {name: versions[0] for name, versions in live.items() if len(versions) == 1}


def doubled(observed: Observed) -> set[SecretName]:
    """Return the names that stand there more than once: an agent waits with the whole bundle."""
    names = [entry.name for entry in observed.entries]
    return {name for name in names if names.count(name) > 1}


class Reconciling(RuleBasedStateMachine):
    """Orders, accidents and ends of the deployer in any order."""

    sealed = False
    claimed_at = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.barbican = Barbican(watch=self.look)
        self.names = {"A", "B", "C", "D"}
        self.rotations: dict[str, Rotation] = {}
        self.last: dict[SecretName, Version] = {}
        self.settled: dict[str, dict[SecretName, Version]] = {}
        self.back_to: dict[str, dict[SecretName, Version]] = {}
        self.seen: dict[str, list[dict[SecretName, Version]]] = defaultdict(list)
        self.served: set[SecretName] = set()
        self.rotation_of: dict[Version, str] = {}
        self.orders = 0
        self.undisturbed = True

    def look(self) -> None:
        """See what an agent would serve now."""
        has = self.barbican.has
        self.rotation_of |= {one.version: one.marks.rotation for one in has.made if one.marks}
        if has.granted_to != USER or has.container is None:
            return
        now = current(has)
        if self.sealed and not self.served and not has.entries:
            return  # it waits for its key
        if not self.served and self.undisturbed:
            assert set(now) == self.names, "at first all or nothing"
        if self.undisturbed:
            listed = set(now) | doubled(has)
            assert self.served & {SecretName(n) for n in self.names} <= listed, (
                "a name that was served is gone"
            )
        self.served = set(now) | doubled(has)
        if doubled(has):
            return
        for group in set(GROUPS.values()):
            self.seen[group].append({name: v for name, v in now.items() if GROUPS[name] == group})

    def desired(self) -> Desired:
        """Return what the VPS should have now."""
        wishes = tuple(wish(name, last=self.last.get(SecretName(name))) for name in sorted(self.names))
        orders = tuple(self.rotations.values())
        return Desired("vps", USER, wishes, orders, sealed=self.sealed, claimed_at=self.claimed_at)

    def observed(self) -> Observed:
        """Return what the deployer sees of it."""
        return self.barbican.has

    def reconcile(self) -> None:
        """Plan and do until nothing is left, or until the deployer ends."""
        for _ in range(40):
            planned = planning.plan(self.desired(), self.observed(), self.barbican.now)
            if not planned.actions:
                for done in planned.finished:
                    self.check(self.rotations.pop(done))
                if not planning.plan(self.desired(), self.observed(), self.barbican.now).actions:
                    return
            for action in planned.actions:
                self.do(action)
        raise AssertionError("it never ends")

    def do(self, action: Action) -> None:
        """Take one step."""
        self.barbican.do(action)

    def check(self, order: Rotation) -> None:
        """What was ordered is listed: one new version a name, or the former ones."""
        has = self.barbican.has
        for name in order.names:
            version = current(has)[name]
            if name in order.targets:
                assert version == order.targets[name]
            else:
                assert self.rotation_of[version] == order.id
                made = [one for one in has.made if one.name == name and one.marks]
                twice = [one for one in made if one.marks and one.marks.rotation == order.id]
                assert len(twice) == 1, "made twice for one order"
            if order.compromised:
                left = [one for one in has.made if one.name == name and one.version != version and one.marks]
                assert not left, "a compromised version is still there"

    @rule(calls=st.integers(0, 12))
    def end_early(self, calls: int) -> None:
        """The deployer is killed after so many calls."""
        self.barbican.left = calls
        with contextlib.suppress(EndedError):
            self.reconcile()
        self.barbican.left = 10_000

    @rule(group=st.sampled_from(["pair", "C", "D"]), calls=st.integers(1, 12), forget=st.booleans())
    def end_in_a_rotation(self, group: str, calls: int, *, forget: bool) -> None:
        """The deployer is killed in a rotation; its database may be lost too."""
        self.order(group, compromised=False)
        self.end_early(calls)
        if forget:
            self.lose_the_database()

    @rule()
    def settle(self) -> None:
        """Nothing disturbs: afterwards all is as it should be."""
        self.reconcile()
        has = self.barbican.has
        now = current(has)
        assert set(now) == self.names
        assert not doubled(has)
        assert has.granted_to == USER
        assert not self.rotations
        for group in set(GROUPS.values()):
            members = {name: v for name, v in now.items() if GROUPS[name] == group}
            # of two rotations, maybe; and if it is for a key that has gone, it is made anew at once
            asked = self.back_to.pop(group, None)
            if self.undisturbed and group in self.settled and set(self.settled[group]) == set(members):
                for bundle in self.seen[group]:
                    same = len({self.rotation_of[version] for version in bundle.values()}) == 1
                    whole = same and set(bundle) == set(members)
                    assert whole or bundle in (self.settled[group], members, asked), "half a group"
            self.settled[group] = members
        self.seen.clear()
        self.last = now
        self.undisturbed = True
        slot = next(one.marks.slot for one in has.made if one.version == now[SecretName("D")] and one.marks)
        assert slot in SLOTS

    @rule(group=st.sampled_from(["pair", "C", "D"]), compromised=st.booleans())
    def order(self, group: str, *, compromised: bool) -> None:
        """A rotation comes due, or somebody asks for one."""
        names = frozenset(SecretName(name) for name in self.names if GROUPS[name] == group)
        if any(rotation.names & names for rotation in self.rotations.values()):
            return
        self.orders += 1
        order = Rotation(f"order-{self.orders}", names, compromised=compromised)
        self.rotations[order.id] = order

    @precondition(lambda self: self.settled and not self.rotations and self.undisturbed)
    @rule(group=st.sampled_from(["pair", "C"]), data=st.data())
    def roll_back(self, group: str, data: st.DataObject) -> None:
        """A former version of each name of a group is to be listed again."""
        now = current(self.barbican.has)
        targets: dict[SecretName, Version] = {}
        for name in sorted(name for name in self.names if GROUPS[name] == group):
            former = sorted(
                one.version
                for one in self.barbican.has.made
                if one.name == name and one.marks and one.version != now.get(SecretName(name))
            )
            if not former:
                return
            targets[SecretName(name)] = data.draw(st.sampled_from(former))
        self.orders += 1
        self.back_to[group] = targets
        self.rotations[f"back-{self.orders}"] = Rotation(f"back-{self.orders}", frozenset(targets), targets)

    @rule()
    def lose_the_database(self) -> None:
        """Orders and what was seen last are forgotten."""
        self.rotations.clear()
        self.last = {}

    @rule(hours=st.sampled_from([0.1, 2, 30]))
    def wait(self, hours: float) -> None:
        """Time goes by."""
        self.barbican.now += hours * 3600

    @rule(name=st.sampled_from("CE"))
    def change_the_blueprint(self, name: str) -> None:
        """A name comes or goes."""
        self.names ^= {name}
        self.settled.pop(GROUPS[name], None)
        self.undisturbed = self.undisturbed and bool(self.served)
        self.served.discard(SecretName(name))
        self.rotations = {
            key: replace(one, names=one.names & {SecretName(n) for n in self.names})
            for key, one in self.rotations.items()
            if one.names & {SecretName(n) for n in self.names}
        }

    @precondition(lambda self: self.barbican.has.made)
    @rule(data=st.data())
    def delete_a_secret(self, data: st.DataObject) -> None:
        """A person deletes a secret: Barbican takes it out of the container."""
        victim = data.draw(st.sampled_from(sorted(self.barbican.has.made, key=lambda one: one.version)))
        self.undisturbed = False
        self.barbican.has = planning.after(self.barbican.has, DeleteSecret(victim.name, victim.version))
        self.rotations = {  # a rollback to what is gone can't be: the worker gives it up
            key: one for key, one in self.rotations.items() if victim.version not in one.targets.values()
        }

    @precondition(lambda self: self.barbican.has.container)
    @rule()
    def delete_the_container(self) -> None:
        """A person deletes the container; its secrets stay."""
        self.undisturbed = False
        self.barbican.has = replace(self.barbican.has, container=None, entries=frozenset())

    @invariant()
    def nothing_wanted_is_deleted(self) -> None:
        """Each entry names a version that is there."""
        made = {one.version for one in self.barbican.has.made}
        assert all(entry.version in made for entry in self.barbican.has.entries)


class SealedReconciling(Reconciling):
    """The same of a VPS whose values are sealed to its key, with what its agent makes of their order."""

    sealed = True

    def __init__(self) -> None:
        super().__init__()
        self.key = 1
        self.second = False
        self.thief = False
        self.joined: Version | None = None
        self.forgot_acl = False
        self.headers: dict[Version, tuple[int, int]] = {}
        self.over: set[Version] = set()
        self.floors: dict[SecretName, int] = {}
        self.agent: dict[SecretName, Version] = {}

    def keys(self) -> list[bytes]:
        """Return the keys that are registered in the container that there is now."""
        if self.joined is None or self.joined != self.barbican.has.container:
            return []
        return [b"t" * 32 if self.thief else bytes([self.key]) * 32, *([b"s" * 32] if self.second else [])]

    def observed(self) -> Observed:
        """Return what the deployer sees: whom the ACLs name it has forgotten where it ended in between."""
        consumers = frozenset(sealing_key.announcement_of(key)["URL"] for key in self.keys())
        has = replace(self.barbican.has, consumers=consumers)
        return replace(has, granted_to=None) if self.forgot_acl else has

    def do(self, action: Action) -> None:
        """Take one step; what is made is for the one key, and after all before it."""
        if isinstance(action, Make):
            (key,) = self.keys()
            assert action.seal is not None
            assert (action.seal.key, action.marks.key) == (key, fingerprint(key))
            before = [one for one in self.barbican.has.made if one.name == action.name]
            known = [self.headers[one.version][0] for one in before if one.marks]
            assert action.marks.sequence > max(known, default=0)
            assert action.seal.floor <= action.marks.sequence
            if action.seal.floor == action.marks.sequence:
                self.over |= {one.version for one in before}
        super().do(action)
        if isinstance(action, Make) and action.seal:
            made = f"00000000-0000-0000-0000-{self.barbican.number:012x}"
            self.headers[Version(made)] = action.marks.sequence, action.seal.floor
        if isinstance(action, Grant | CreateContainer):
            self.forgot_acl = False

    def look(self) -> None:
        """See what an agent would serve; it refuses nothing but what was compromised."""
        super().look()
        has = self.barbican.has
        if has.granted_to != USER or doubled(has):
            return
        for name, version in current(has).items():
            if version != self.agent.get(name):
                sequence, floor = self.headers[version]
                if sequence < self.floors.get(name, 0):
                    assert version in self.over, "the agent refuses what the deployer lists"
                else:
                    self.agent[name] = version
                    self.floors[name] = max(self.floors.get(name, 0), floor)

    @rule()
    def settle(self) -> None:
        """The VPS joins, if it has not, and nothing disturbs."""
        self.second = False
        self.reconcile()
        if not self.keys():
            assert self.barbican.has.granted_to == USER, "it can't register its key"
            self.joined = self.barbican.has.container
        super().settle()
        marks = {
            one.marks for one in self.barbican.has.made if one.version in current(self.barbican.has).values()
        }
        assert {one.key for one in marks if one} == {fingerprint(self.keys()[0])}

    @rule()
    def another_key(self) -> None:
        """The VPS was made anew, and claimed again: what it has is of no use to it."""
        self.key += 1
        self.claimed_at = self.barbican.now + 0.01

    @precondition(lambda self: self.keys() and self.barbican.has.made)
    @rule()
    def a_thief_exchanges_the_key(self) -> None:
        """He has the credential of the VPS: without a claim nothing is made for his key, or changed."""
        before, self.thief = self.barbican.has, True
        if planning.wrong_keys(self.desired(), self.observed()):
            self.reconcile()
            assert self.barbican.has == before
        self.thief = False

    @rule()
    def a_second_key(self) -> None:
        """Somebody else may have its credential: nothing is delivered any more."""
        self.second = bool(self.keys())
        before = self.barbican.has
        if self.second:
            self.reconcile()
            assert self.barbican.has == before
        self.second = False

    @rule(calls=st.integers(0, 12))
    def end_early(self, calls: int) -> None:
        """The deployer is killed after so many calls, and may not know what the last one was."""
        super().end_early(calls)
        self.forgot_acl = True

    @rule()
    def lose_the_database(self) -> None:
        """Whom the ACLs name is forgotten, too."""
        super().lose_the_database()
        self.forgot_acl = True


def test_nothing_is_made_before_there_is_a_key() -> None:
    """But the place where the VPS registers it, which it can read."""
    machine = SealedReconciling()
    machine.reconcile()
    has = machine.observed()
    assert has.container is not None
    assert (has.granted_to, has.entries, has.made) == (USER, frozenset(), frozenset())
    again = planning.plan(machine.desired(), replace(has, granted_to=None), machine.barbican.now)
    assert again.actions == (Grant(USER, frozenset()),)


def test_a_container_that_was_lost_is_made_with_what_it_listed() -> None:
    """Though the key went with it: the versions are sealed to it, and the VPS announces it there again."""
    machine = SealedReconciling()
    machine.settle()
    has = machine.observed()
    had = {entry.name: entry.version for entry in has.entries}
    desired = replace(
        machine.desired(),
        wishes=tuple(replace(one, last=had.get(one.name)) for one in machine.desired().wishes),
    )
    lost = replace(has, container=None, entries=frozenset(), consumers=frozenset())
    (action,) = planning.plan(desired, lost, machine.barbican.now).actions
    assert isinstance(action, CreateContainer)
    assert {entry.name: entry.version for entry in action.entries} == had != {}


def test_who_takes_a_machine_s_place_can_register_its_key() -> None:
    """It reads the container, though the former machine's entries are still there; nothing is made."""
    machine = SealedReconciling()
    machine.settle()
    has = replace(machine.observed(), consumers=frozenset(), granted_to="")
    desired = replace(machine.desired(), user_id="another user")
    every = frozenset(one.version for one in has.made)
    assert planning.plan(desired, has, machine.barbican.now).actions == (Grant("another user", every),)
    before = replace(machine.observed(), granted_to=USER)  # its key is there still, and it is shut out first
    assert planning.plan(desired, before, machine.barbican.now).actions == (Grant("", every),)


def test_another_key_counts_after_a_claim_only() -> None:
    """Whoever has the VPS's credential can register one and take the former away."""
    machine = SealedReconciling()
    machine.settle()
    newest = max(one.created for one in machine.observed().made)
    machine.thief = True
    for claimed_at, wrong in ((0.0, True), (newest, True), (newest + 1, False)):
        desired = replace(machine.desired(), claimed_at=claimed_at)
        planned = planning.plan(desired, machine.observed(), machine.barbican.now)
        assert (planning.wrong_keys(desired, machine.observed()) == planning.ANOTHER_KEY) is wrong
        assert (planned.actions == ()) is wrong


def test_the_next_key_of_a_vps_takes_its_values() -> None:
    """The one that the former has said to come after it, and no other; and the former does not come back."""
    machine = SealedReconciling()
    machine.settle()
    has, key, after = machine.observed(), b"a" * 32, b"b" * 32
    second = Announced(after, b"n" * 32, key)
    first = Announced(key, second.digest)

    def made_for(one: Announced) -> frozenset[Made]:
        return frozenset(
            replace(made, marks=made.marks and replace(made.marks, key=one.fingerprint)) for made in has.made
        )

    def wrong(made: frozenset[Made], *announced: Announced) -> str:
        consumers = frozenset(one.consumer["URL"] for one in announced)
        return planning.wrong_keys(machine.desired(), replace(has, made=made, consumers=consumers))

    before = made_for(first)
    for good in ((first,), (second,), (first, second)):
        assert wrong(before, *good) == ""
    for thief in (Announced(b"t" * 32), Announced(b"t" * 32, former=key), Announced(key, b"t" * 32)):
        assert wrong(before, thief) == planning.ANOTHER_KEY
        assert wrong(before, first, thief) == planning.TWO_KEYS
    assert wrong(before, Announced(after, b"t" * 32, key)) == planning.ANOTHER_KEY
    newest = max(before, key=lambda made: made.marks.sequence if made.marks else 0)
    assert newest.marks is not None
    later = newest.marks.sequence + 1
    sealed = replace(newest, marks=replace(newest.marks, key=second.fingerprint, sequence=later))
    assert wrong(before - {newest} | {sealed}, second) == ""
    assert wrong(before - {newest} | {sealed}, first) == planning.ANOTHER_KEY
    seen = replace(has, made=before, consumers=frozenset({second.consumer["URL"]}))
    actions = planning.plan(machine.desired(), seen, machine.barbican.now).actions
    assert {one.seal.key for one in actions if isinstance(one, Make) and one.seal} == {after}


def test_the_blueprint_says_how_long_the_former_one_is_served() -> None:
    """In the header of each sealed value; and a compromised one has no former version."""
    machine = SealedReconciling()
    machine.settle()
    kept = replace(wish("C"), keep_previous_s=3600)
    for compromised in (False, True):
        order = Rotation("order", frozenset({kept.name}), compromised=compromised)
        desired = Desired("vps", USER, (kept,), (order,), sealed=True)
        (made,) = planning.plan(desired, machine.observed(), machine.barbican.now).actions
        assert isinstance(made, Make)
        assert made.seal is not None
        (former,) = [one.marks for one in machine.observed().made if one.name == "C"]
        assert former is not None
        assert made.seal.floor == (made.marks.sequence if compromised else former.sequence)
        assert made.seal.keep_s == 3600


@pytest.mark.parametrize(("kind", "told"), [("random", planning.DECIDE), ("external", planning.GIVE)])
def test_what_only_a_person_can_mend_is_told(kind: str, told: str) -> None:
    """What is missing, and may not be made; not what is there."""
    wishes = (Wish(SecretName("A"), kind, "A", may_make=False), Wish(SecretName("B"), "random", "B"))
    planned = planning.plan(Desired("vps", USER, wishes), Observed(), 0.0)
    assert [action.name for action in planned.actions if isinstance(action, Make)] == ["B"]
    assert planned.remarks == {"A": told}


def test_what_never_changes_is_not_made_anew_for_another_key() -> None:
    """Old data depends on it: a person has to know."""
    machine = SealedReconciling()
    machine.settle()
    machine.another_key()
    never = (wish("C", may_make=False),)
    desired = Desired("vps", USER, never, sealed=True, claimed_at=machine.claimed_at)
    planned = planning.plan(desired, machine.observed(), machine.barbican.now)
    assert not any(isinstance(action, Make) for action in planned.actions)
    assert planned.remarks == {"C": planning.DECIDE_ANEW}


TestReconciling = Reconciling.TestCase
TestSealedReconciling = SealedReconciling.TestCase
TestSealedReconciling.settings = settings(
    stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestReconciling.settings = settings(
    stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


@pytest.mark.parametrize("group", ["pair", "C", "D"])
@pytest.mark.parametrize("compromised", [False, True], ids=["plain", "compromised"])
@pytest.mark.parametrize("forget", [False, True], ids=["database-kept", "database-lost"])
def test_a_rotation_that_ends_after_any_call_is_finished(
    group: str, *, compromised: bool, forget: bool
) -> None:
    """After each call in turn, until one run needs no second one."""
    for calls in range(40):
        machine = Reconciling()
        machine.settle()
        machine.order(group, compromised=compromised)
        machine.end_early(calls)
        whole = not machine.rotations
        if forget:
            machine.lose_the_database()
        machine.settle()
        if whole:
            assert calls > 3
            return
    raise AssertionError("it never needed no second run")
