"""agent/core/rotation.py against a model of Barbican that rotates, breaks, refuses and forgets in any order.

The model keeps its own, plainer account of what the machine may and must do, from the history of readings.
Every case of two and three names rotated together is tried in full; the rest is drawn.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.core import rotation
from agent.core.errors import Failure, Fault
from agent.core.errors import Step as Part
from agent.core.rotation import (
    LEAVING_S,
    MAX_WAIT_S,
    SETTLE_S,
    Entry,
    Moment,
    Policy,
    Progress,
    Reading,
    Step,
    Unread,
)
from agent.core.schedule import MIN_S
from agent.core.secret import SecretMetadata
from common.names import SecretName, Version

if TYPE_CHECKING:
    from collections.abc import Mapping

REFUSED = Failure(Part.PERMISSION, Fault.DENIED, "read the container", "grant access")
AWAY = Failure(Part.BARBICAN, Fault.TRANSIENT, "read the container", "wait")
A, B, C, D, E, F, G = (SecretName(letter) for letter in "ABCDEFG")
GROUPS = ((A, B), (C, D, E), (F,), (G,))
"""What is rotated together. F expires; G comes and goes."""
POLICY = Policy(revocation_grace=100.0, max_stale={B: 2000.0, D: math.inf}, default_max_stale=None)
READ_S = 0.0625  # exact in binary, as are all delays here
LIFETIME_S = 200.0


class Barbican:
    """The container, its secrets, and those who rotate them.

    All new entries first, then the old ones out, then their secrets are deleted, or kept for a rollback. An
    entry that was removed can't be added again (Barbican answers 500), only the same secret with another k.
    """

    def __init__(self, groups: tuple[tuple[SecretName, ...], ...]) -> None:
        self.boot, self.time = 0.0, 1_000_000.0
        self.entries: list[Entry] = []
        self.removed: set[Entry] = set()
        self.facts: dict[Version, SecretMetadata] = {}
        self.broken: dict[Version, Unread] = {}
        self.deleted: set[Version] = set()
        self.epoch: dict[Version, int] = {}
        self.began: dict[int, float] = {}
        self.todo: dict[tuple[SecretName, ...], list[tuple[str, tuple[Entry, ...]]]] = {}
        for group in groups:
            self.rotate(group)
            self.finish()

    def rotate(
        self, group: tuple[SecretName, ...], adds: int = 0, removes: int = 0, *, keeps: bool = False
    ) -> None:
        """Plan a rotation of all names of the group, in one of the orders that the rule allows."""
        if not self.todo.get(group):
            self._replace(group, {name: self._create(name) for name in group}, adds, removes, keeps=keeps)

    def roll_back(self, group: tuple[SecretName, ...], adds: int = 0, removes: int = 0) -> None:
        """Plan that what was replaced is listed again, or where it was deleted what is listed."""
        if self.todo.get(group):
            return
        listed = {entry.version for entry in self.entries}
        made = [version for version in self.facts if version not in self.deleted]
        former = {self.facts[version].name: version for version in made if version not in listed}
        if not former.keys() >= set(group):
            former = {self.facts[version].name: version for version in made if version in listed}
        targets = {name: former[name] for name in group if name in former}
        self._replace(group, targets, adds, removes, keeps=True)

    def _replace(
        self,
        group: tuple[SecretName, ...],
        targets: Mapping[SecretName, Version],
        adds: int,
        removes: int,
        *,
        keeps: bool,
    ) -> None:
        epoch = len(self.began)
        self.began[epoch] = self.boot
        self.epoch |= dict.fromkeys(targets.values(), epoch)
        added = [Entry(name, version, self.next_k(name, version)) for name, version in targets.items()]
        removed = [entry for entry in self.entries if entry.name in group]
        orders = [list(itertools.permutations(entries)) for entries in (added, removed)]
        self.todo[group] = [
            *(("add", (entry,)) for entry in orders[0][adds % len(orders[0])]),
            *(("remove", (entry,)) for entry in orders[1][removes % len(orders[1])]),
            ("keep" if keeps else "delete", tuple(removed)),
        ]

    def next_k(self, name: SecretName, version: Version) -> int:
        """Return the k of a new entry: above what is listed; none where it is not needed."""
        highest = max((entry.k for entry in self.entries if entry.name == name), default=0)
        used = [entry.k for entry in (*self.entries, *self.removed) if entry.version == version]
        return max([highest, *used]) + 1 if highest or used else 0

    def advance(self, choice: int = 0) -> None:
        """Make the next step of one of the rotations that are under way."""
        busy = [group for group, steps in self.todo.items() if steps]
        if not busy:
            return
        verb, entries = self.todo[busy[choice % len(busy)]].pop(0)
        if verb == "add":
            assert not self.removed.intersection(entries)
            self.entries += entries
        elif verb == "remove":
            self.remove(entries)
        elif verb == "delete":
            self.deleted |= {entry.version for entry in entries}

    def remove(self, entries: tuple[Entry, ...]) -> None:
        """Remove entries from the container."""
        self.removed.update(entries)
        self.entries = [other for other in self.entries if other not in entries]

    def finish(self) -> None:
        """Make all steps that are left."""
        while any(self.todo.values()):
            self.advance()

    def payload(self, version: Version) -> SecretMetadata | Unread:
        """Answer a request for one payload."""
        facts = self.facts[version]
        if version in self.deleted or (facts.expires is not None and facts.expires <= self.time):
            return Unread.ABSENT
        return self.broken.get(version, facts)

    def newest(self) -> dict[SecretName, Version]:
        """Return what a machine that has settled must hold."""
        readable = [e for e in self.entries if isinstance(self.payload(e.version), SecretMetadata)]
        return {entry.name: entry.version for entry in sorted(readable, key=lambda e: (e.k, e.version))}

    def _create(self, name: SecretName) -> Version:
        version = Version(f"{name}{len(self.facts):06}")
        expires = self.time + LIFETIME_S if name == F and len(self.began) % 2 else None
        self.facts[version] = SecretMetadata(name, version, 1, "text/plain", float(len(self.facts)), expires)
        return version


@dataclass
class Account:
    """What the readings so far allow and demand, per held name; times on the boot clock (s)."""

    absent: dict[SecretName, float] = field(default_factory=dict)
    denied: dict[SecretName, float] = field(default_factory=dict)
    listed: dict[SecretName, float] = field(default_factory=dict)
    expired: set[SecretName] = field(default_factory=set)
    refused: float | None = None
    agreed: float = 0.0

    def note(self, held: dict[SecretName, SecretMetadata], reading: Reading, now: Moment) -> None:
        """Take a reading into account."""
        self.refused = None
        self.expired = set()
        if {facts.version for facts in held.values()} <= {entry.version for entry in reading.entries}:
            self.agreed = now.boot
        for name, facts in held.items():
            versions = {entry.version for entry in reading.entries if entry.name == name}
            if facts.version in versions:
                self.listed[name] = now.boot
            if not versions:
                self.absent.setdefault(name, now.boot)
                continue
            self.absent.pop(name, None)
            answers = {reading.unread.get(version) for version in versions}
            if versions & reading.read.keys() or (facts.version in versions - reading.unread.keys()):
                self.denied.pop(name, None)
            elif answers == {Unread.ABSENT}:
                self.denied.pop(name, None)
                if facts.expires is not None and facts.expires <= now.wall:
                    self.expired.add(name)
            elif Unread.DENIED in answers:
                self.denied.setdefault(name, now.boot)

    def may_drop(self, name: SecretName, now: Moment, *, is_reading: bool) -> bool:
        """Return whether Barbican or the operator took the name away."""
        limit = POLICY.limit(name)
        return self.must_drop(name, now, is_reading=is_reading) or now.boot - self.agreed >= limit

    def must_drop(self, name: SecretName, now: Moment, *, is_reading: bool) -> bool:
        """Return whether it may be served no longer."""
        grace, never = POLICY.revocation_grace, math.inf
        return (
            now.boot - (never if self.refused is None else self.refused) >= grace
            or now.boot - self.denied.get(name, never) >= grace
            or now.boot - self.listed[name] >= POLICY.limit(name)
            or (is_reading and (name in self.expired or now.boot - self.absent.get(name, never) >= LEAVING_S))
        )

    def forget(self, name: SecretName, boot: float) -> None:
        """Begin anew with a name that was dropped, or published in another version."""
        self.absent.pop(name, None)
        self.denied.pop(name, None)
        self.listed[name] = boot


class Run:
    """A machine driven as the refresher drives it, and checked after each step."""

    def __init__(self, groups: tuple[tuple[SecretName, ...], ...] = GROUPS) -> None:
        self.groups = groups
        self.barbican = Barbican(groups)
        self.held: dict[SecretName, SecretMetadata] = {}
        self.progress = Progress()
        self.account = Account()
        self.skew = 0.0

    @property
    def now(self) -> Moment:
        """What this machine's clocks show; its wall clock may be wrong."""
        return Moment(self.barbican.boot, self.barbican.time + self.skew)

    def sleep(self, seconds: float) -> None:
        """Let time pass, and do what is due on the way, as the refresher does."""
        end = self.now.boot + seconds
        while self.now.boot < end:
            step = self._take(rotation.overdue(self.held, self.progress, POLICY, self.now), {})
            assert step.again_in is None or step.again_in > 0
            wait = min(end - self.now.boot, step.again_in or math.inf)
            self.barbican.boot += wait
            self.barbican.time += wait
        self._take(rotation.overdue(self.held, self.progress, POLICY, self.now), {})

    def fail(self, failure: Failure) -> None:
        """Make a cycle that fails as a whole."""
        if failure is REFUSED and self.account.refused is None:
            self.account.refused = self.now.boot
        self._take(rotation.after_failure(self.held, failure, self.progress, POLICY, self.now), {})

    def cycle(self, *meanwhile: int, order: int = 0, choice: int = 0) -> Step:
        """Make a cycle: read the container once, then each new payload in some order.

        ``meanwhile`` the rotators go on: so many steps of theirs come before each payload is read.
        """
        asked = self.now
        known = rotation.known(self.held, asked)
        doubles = rotation.reads_doubles(self.held, self.progress, asked)
        entries = tuple(self.barbican.entries)
        wanted = sorted({entry.version for entry in entries} - known)
        if rotation.has_double(entries) and not doubles:
            wanted = []
        answers: dict[Version, SecretMetadata | Unread] = {}
        for number, place in enumerate(permutation(len(wanted), order)):
            for _ in range(meanwhile[number] if number < len(meanwhile) else 0):
                self.barbican.advance(choice)
            self.barbican.boot += READ_S
            self.barbican.time += READ_S
            answers[wanted[place]] = self.barbican.payload(wanted[place])
        reading = Reading(
            entries,
            {version: answer for version, answer in answers.items() if isinstance(answer, SecretMetadata)},
            {version: answer for version, answer in answers.items() if isinstance(answer, Unread)},
        )
        self.account.note(self.held, reading, asked)
        step = rotation.after_reading(self.held, reading, self.progress, POLICY, asked)
        assert step.again_in is None or step.again_in >= MIN_S
        assert not self.held or step.versions is not None or step.progress.waiting_since is not None
        if step.versions is not None and step.progress.waiting_since is None:
            self._check_newest(step.versions, reading)
        return self._take(step, dict(reading.read), asked)

    def _take(self, step: Step, read: dict[Version, SecretMetadata], asked: Moment | None = None) -> Step:
        """Check a step and apply it; ``asked`` is when the reading behind it, if any, was asked for."""
        now, is_reading = asked or self.now, asked is not None
        versions = {n: f.version for n, f in self.held.items()} if step.versions is None else step.versions
        self._check_drops(versions, step, now, is_reading=is_reading)
        held = {facts.version: facts for facts in self.held.values()}
        after = {name: (read | held)[version] for name, version in versions.items()}  # only what was read
        assert all(facts.name == name for name, facts in after.items())
        if after.keys() - self.held.keys() or any(after[n] != self.held[n] for n in after):
            assert is_reading
            self._check_whole(after, now)
        for name in after.keys() | self.held.keys():
            if after.get(name) != self.held.get(name):
                self.account.forget(name, now.boot)
        if is_reading and step.progress.waiting_since is None:
            self.account.agreed = now.boot
        self.held, self.progress = after, step.progress
        return step

    def _check_drops(
        self, versions: Mapping[SecretName, Version], step: Step, now: Moment, *, is_reading: bool
    ) -> None:
        gone = self.held.keys() - versions.keys()
        assert gone == step.dropped.keys()
        for name, facts in self.held.items():
            if name in gone:
                assert self.account.may_drop(name, now, is_reading=is_reading), (name, step.dropped[name])
            elif versions[name] == facts.version:
                assert not self.account.must_drop(name, now, is_reading=is_reading), name

    def _check_newest(self, versions: Mapping[SecretName, Version], reading: Reading) -> None:
        """What is published of a listed name is the highest k, then the last created, of what is readable."""
        held = {facts.version for facts in self.held.values()} - reading.unread.keys()
        readable = [entry for entry in reading.entries if entry.version in held | reading.read.keys()]
        newest = {e.name: e.version for e in sorted(readable, key=lambda e: (e.k, e.version))}
        assert {name: versions[name] for name in newest} == newest

    def _check_whole(self, after: dict[SecretName, SecretMetadata], now: Moment) -> None:
        """No published set holds half of what was rotated together, unless the time for it has passed."""
        if not self.held:
            return  # the first start takes the newest at once
        waited = 0.0 if self.progress.waiting_since is None else now.boot - self.progress.waiting_since
        for group in self.groups:
            former = {name: self.held[name] for name in group if name in self.held}
            current = {name: after[name] for name in group if name in after}
            epochs = {self.barbican.epoch[facts.version] for facts in current.values()}
            if len(epochs) > 1 and current != former:
                since = self.barbican.began[max(epochs)]
                assert now.boot - since >= SETTLE_S or waited >= MAX_WAIT_S, current

    def settle(self) -> None:
        """Once the container is quiet and readable, the machine holds its newest, and is at rest."""
        self.barbican.finish()
        self.barbican.broken.clear()
        self.skew = 0.0
        self.sleep(LIFETIME_S)
        end = self.now.boot + 2 * SETTLE_S
        while self.now.boot <= end:
            step = self.cycle()
            self.sleep(step.again_in or 20.0)
        step = self.cycle()
        newest = self.barbican.newest()
        unreadable = {entry.name for entry in self.barbican.entries} - newest.keys()
        assert step.remarks is not None
        assert step.remarks.kept == self.held.keys() & unreadable
        assert step.remarks.pending == unreadable - self.held.keys()
        assert {n: f.version for n, f in self.held.items() if n not in step.remarks.kept} == newest
        assert not step.duplicates
        assert step.again_in is None
        if not unreadable:
            assert step.progress == Progress(confirmed=self.now.boot)


@pytest.mark.parametrize("size", [2, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("back", [False, True], ids=["forward", "back"])
@pytest.mark.parametrize("broken", [None, *Unread])
def test_a_rotation_is_whole_whatever_its_order_and_wherever_it_is_read(
    size: int, broken: Unread | None, *, back: bool
) -> None:
    """Every order of the steps with every choice of the moments at which the container is read.

    ``back``: it lists again what the rotation before has replaced.
    """
    group = (A, B, C)[:size]
    orders, moments = math.factorial(size), 2 * size + 2
    cases = 0
    for adds, removes, read in itertools.product(
        range(orders), range(orders), itertools.product((False, True), repeat=moments)
    ):
        run = Run((group,))
        first = run.barbican.newest()
        if back:
            run.barbican.rotate(group, keeps=True)
            run.barbican.finish()
        run.cycle()
        former = dict(run.held)
        (run.barbican.roll_back if back else run.barbican.rotate)(group, adds, removes)
        added = [entries[0].version for verb, entries in run.barbican.todo[group] if verb == "add"]
        assert not back or sorted(added) == sorted(first.values())
        if broken is not None:
            run.barbican.broken = {max(added): broken}
        for moment in range(moments):
            if read[moment]:
                run.cycle()
            if moment < moments - 2:  # the last two steps are the last entry's removal and the deletion
                assert run.held == former
            run.barbican.advance()
            run.sleep(2.0)
        run.barbican.broken.clear()
        run.cycle()
        assert {name: facts.version for name, facts in run.held.items()} == run.barbican.newest()
        assert run.held != former
        cases += 1
    assert cases == orders**2 * 2**moments


@pytest.mark.parametrize("starts", [True, False])
@pytest.mark.parametrize("back", [False, True], ids=["forward", "back"])
def test_a_rotation_that_nobody_finishes_is_taken_as_far_as_it_came(*, back: bool, starts: bool) -> None:
    """Wherever it stopped: at once where nothing is held, else after its minute."""
    for steps in range(6):
        run = Run(((A, B),))
        run.barbican.rotate((A, B), keeps=True)
        run.barbican.finish()
        if not starts:
            run.cycle()
        (run.barbican.roll_back if back else run.barbican.rotate)((A, B))
        for _ in range(steps):
            run.barbican.advance()
        run.cycle()
        if not starts:
            run.sleep(SETTLE_S)
            run.cycle()
        assert {name: facts.version for name, facts in run.held.items()} == run.barbican.newest()


def permutation(size: int, number: int) -> list[int]:
    """Return one of the orders of ``size`` places."""
    places, order = list(range(size)), []
    for left in range(size, 0, -1):
        number, place = divmod(number, left)
        order.append(places.pop(place))
    return order


@pytest.mark.parametrize("starts", [True, False])
@pytest.mark.parametrize("size", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_a_rotation_that_goes_on_while_payloads_are_read_is_whole_too(size: int, *, starts: bool) -> None:
    """The container is read once: wherever a second rotation is then, and wherever it goes on meanwhile.

    Names are alike, so one order of adding is every order. ``starts``: nothing is held when it is read.
    """
    group, steps, cases = (A, B, C)[:size], 2 * size + 1, 0
    for removes, order, begun in itertools.product(*[range(math.factorial(size))] * 2, range(steps + 1)):
        for gaps in itertools.product(range(steps - begun + 1), repeat=size):
            if sum(gaps) > steps - begun:
                continue
            run = Run((group,))
            if not starts:
                run.cycle()
            run.barbican.rotate(group)
            run.barbican.finish()
            run.barbican.rotate(group, 0, removes)
            for _ in range(begun):
                run.barbican.advance()
            is_double = len(run.barbican.entries) > size
            run.cycle(*gaps, order=order)
            if starts and not is_double:  # a first start takes the newest of what stands there twice
                assert len({run.barbican.epoch[facts.version] for facts in run.held.values()}) <= 1
            run.sleep(2.0)
            run.cycle()
            run.barbican.finish()
            run.sleep(2.0)
            run.cycle()
            assert {name: facts.version for name, facts in run.held.items()} == run.barbican.newest()
            cases += 1
    assert cases > 200


DELAYS = (0.5, 2.0, 9.5, 29.5, 30.0, 59.5, 60.0, 400.0)
REASONS = tuple(Unread)
ACTIONS = (
    *("cycle",) * 4,
    *("rotate", "rotate", "roll back"),
    *("step",) * 3,
    *("sleep",) * 3,
    *("break", "heal", "away", "refused", "remove", "add", "clock"),
)


def _act(run: Run, action: str, number: int) -> None:
    """Do one drawn thing."""
    match action:
        case "cycle":
            run.cycle(number % 2, number % 3, number % 5 // 3, order=number, choice=number)
        case "sleep":
            run.sleep(DELAYS[number % len(DELAYS)])
        case "away":
            run.fail(AWAY)
        case "refused":
            run.fail(REFUSED)
        case "clock":
            run.skew = (0.0, 3600.0, -3600.0)[number % 3]
        case _:
            _change(run.barbican, action, number)


def _change(barbican: Barbican, action: str, number: int) -> None:
    """Change what Barbican has."""
    is_listed = any(entry.name == G for entry in barbican.entries)
    match action:
        case "rotate":
            barbican.rotate(GROUPS[number % len(GROUPS)], number, number // 2, keeps=number % 3 > 0)
        case "roll back":
            barbican.roll_back(GROUPS[number % len(GROUPS)], number, number // 2)
        case "step":
            barbican.advance(number)
        case "break":
            entry = barbican.entries[-1 - number % min(3, len(barbican.entries))]
            barbican.broken[entry.version] = REASONS[number % len(REASONS)]
        case "heal":
            barbican.broken.clear()
        case "remove" if not barbican.todo[(G,)]:
            barbican.remove(tuple(entry for entry in barbican.entries if entry.name == G))
        case "add" if not barbican.todo[(G,)] and not is_listed:
            former = [facts.version for facts in barbican.facts.values() if facts.name == G]
            barbican.entries.append(Entry(G, former[-1], barbican.next_k(G, former[-1])))


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    starts=st.booleans(),
    actions=st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 23)), min_size=5, max_size=80),
)
def test_whatever_happens_the_rules_hold_and_the_machine_settles(
    *, starts: bool, actions: list[tuple[str, int]]
) -> None:
    """The checks are in :class:`Run`; what is drawn is all that Barbican, the network and clocks can do."""
    run = Run()
    for group in GROUPS:  # so that there is something to roll back to
        run.barbican.rotate(group, keeps=True)
        run.barbican.finish()
    if starts:
        run.cycle()
    for action, number in actions:
        _act(run, action, number)
    run.settle()
