"""What to do next for one VPS: from what Barbican has to what it should have.

Nothing remembers how far a run came. Container, entries and marks say what is left, so a run that broke off
after any call is finished by planning again. The order carries the promise that the agent never serves half
a group, or nothing:

1. make every missing version of a group; nobody lists them yet;
2. list all new ones: a name stands there twice, from which the agent knows that values belong together;
3. only then take the old entries away;
4. delete what was replaced when it is not needed for a rollback any more.

A VPS without a container gets it with all its entries in one call, and its ACL after that. One whose values
are sealed gets it empty, since it registers its key there. Nothing is made before exactly one key is there,
and nobody can read the container while its first entries are added: that, too, is all or nothing.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from deployer.core.model import (
    EXTERNAL,
    Action,
    AddEntry,
    CreateContainer,
    DeleteContainer,
    DeleteSecret,
    Entry,
    Grant,
    Made,
    Make,
    Marks,
    Observed,
    RemoveEntry,
    Rotation,
    Seal,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from common.names import SecretName, Version
    from deployer.core.model import Desired, Wish

ORPHAN_S: Final = 3600.0
"""What nobody lists and nobody wants is deleted after this: a slow worker may still be at it."""
REMOVED_S: Final = 86400.0
"""How long a name that no blueprint has any more can still be wanted again with its value."""


TWO_KEYS: Final = (
    "more than one key is registered in its container: somebody else may have its credential. It gets nothing"
)
ANOTHER_KEY: Final = (
    "another key is registered in its container than its values are sealed to, and nobody has claimed its "
    "user since: somebody else may have its credential. It gets nothing"
)

GIVE: Final = "needs a value that only a person has: give it (vps-secrets-deploy set)"
DECIDE: Final = (
    "is missing, and is not made anew by itself, since old data may depend on it: "
    "vps-secrets-deploy rotate makes another value"
)
GIVE_AGAIN: Final = (
    "is sealed to a key that the VPS has no more: give its value again (vps-secrets-deploy set)"
)
FORMER_KEY: Final = (
    "is sealed to the former key of the VPS, which opens it and keeps that key for it: nothing is urgent. "
    "vps-secrets-deploy set, or rotate, ends that"
)
DECIDE_ANEW: Final = (
    "is sealed to a key that the VPS has no more, and is not made anew by itself, since old data may depend "
    "on it: vps-secrets-deploy rotate makes another value"
)


@dataclass(frozen=True, slots=True)
class Plan:
    """The next steps, in order. ``finished``: orders that are done, where nothing is left but to delete."""

    actions: tuple[Action, ...]
    remarks: Mapping[SecretName, str] = field(default_factory=dict)
    """What a person has to do about a name, in words."""
    finished: frozenset[str] = frozenset()


def first_rotation(vps_id: str, group: str) -> str:
    """Return the id under which what is missing of a group is made: the same each time it is asked."""
    return _id("first", vps_id, group)


def plan(desired: Desired, observed: Observed, now: float) -> Plan:
    """Return the next steps; after the last of them one plans again.

    ``observed.made`` holds every version that Barbican has under the names of the wishes and the entries.
    """
    if not desired.access or not desired.present:
        return Plan(tuple(_take_away(observed, delete=not desired.present)))
    if former := of_another(desired, observed):
        return Plan((former,))
    if not desired.user_id:
        return Plan(())
    if wrong_keys(desired, observed):
        return Plan(())
    if desired.sealed and not observed.keys:
        return _without_key(desired, observed)
    return _Planner(desired, observed, now).plan()


def of_another(desired: Desired, observed: Observed) -> Grant | None:
    """Return the step that shuts out a former user of the VPS, or nothing: before all else, whoever is next.

    His machine reads on by a token that Barbican knows, for as long as an ACL names him.
    """
    if observed.granted_to in {None, "", desired.user_id}:
        return None
    if not (desired.user_id and desired.access and desired.present):
        return None
    return Grant("", frozenset(made.version for made in observed.made))


def wrong_keys(desired: Desired, observed: Observed) -> str:
    """Return why nothing is made for the keys that are registered, or nothing: an alarm.

    A consumer is a claim by whoever has the credential of the VPS, which can take the former one away, too.
    So another key counts only after the user was claimed again, for which an operator hands a password out,
    or where the key of the newest value has said that it comes after it. One of before does not come back.
    """
    if not (desired.sealed and desired.access and desired.present and observed.keys):
        return ""
    if len(observed.keys) > 1:
        return TWO_KEYS
    sealed = [made for made in observed.made if made.marks and made.marks.key]
    (key,) = observed.keys
    if not sealed or desired.claimed_at > max(made.created for made in sealed):
        return ""
    _, _, last = max((made.marks.sequence, made.created, made.marks.key) for made in sealed if made.marks)
    return "" if key.fingerprint == last or key.succeeds(last) else ANOTHER_KEY


def after(
    observed: Observed, action: Action, *, version: Version | None = None, now: float = 0.0
) -> Observed:
    """Return what Barbican has after a step that went well.

    ``version`` is what Barbican named the thing that was made, ``now`` when.
    """
    match action:
        case Make(name, marks) if version is not None:
            return replace(observed, made=observed.made | {Made(name, version, now, marks)})
        case CreateContainer(user_id, entries):
            granted_to = "" if observed.granted_to == "" else user_id  # its versions name nobody then
            return replace(observed, container=version, entries=entries, granted_to=granted_to)
        case Grant(user_id):
            return replace(observed, granted_to=user_id)
        case AddEntry(entry):
            return replace(observed, entries=observed.entries | {entry})
        case RemoveEntry(entry):
            return replace(observed, entries=observed.entries - {entry})
        case DeleteSecret(_, gone):  # Barbican takes it out of its containers too
            made = frozenset(one for one in observed.made if one.version != gone)
            return replace(
                observed, made=made, entries=frozenset(e for e in observed.entries if e.version != gone)
            )
        case DeleteContainer():
            return replace(observed, container=None, entries=frozenset())
    raise ValueError("Barbican names what it makes")


def next_k(highest: int, now: float) -> int:
    """Return a K above this one that was hardly ever used: the time in seconds."""
    return max(highest + 1, int(now))


class Index:
    """What Barbican has of a VPS, by name."""

    def __init__(self, observed: Observed) -> None:
        self.made = {made.version: made for made in observed.made}
        self.entries: dict[SecretName, list[Entry]] = defaultdict(list)
        """What stands in the container; an expired secret stands there although it is gone."""
        for entry in sorted(observed.entries, key=lambda entry: (entry.name, entry.k, entry.version)):
            self.entries[entry.name].append(entry)

    def live(self, name: SecretName) -> list[Entry]:
        """Return the entries of a name whose secret is there, the one that the agent takes last."""
        live = [entry for entry in self.entries.get(name, ()) if entry.version in self.made]
        return sorted(live, key=lambda entry: (entry.k, self.made[entry.version].created, entry.version))

    def current(self, name: SecretName) -> Made | None:
        """Return the version that the agent takes: the highest K, then the latest created."""
        live = self.live(name)
        return self.made[live[-1].version] if live else None

    def ready(self, name: SecretName, rotation: str) -> Version | None:
        """Return the version of a name that is ready and of this rotation; of several the oldest."""
        ready = [
            made
            for made in self.made.values()
            if made.name == name and made.marks is not None and made.marks.rotation == rotation
        ]
        return min(ready, key=lambda made: (made.created, made.version)).version if ready else None


class _Planner:
    """One run of :func:`plan` for a VPS that is to be there."""

    def __init__(self, desired: Desired, observed: Observed, now: float) -> None:
        self._desired = desired
        self._observed = observed
        self._now = now
        self._has = Index(observed)
        self._remarks: dict[SecretName, str] = {}
        groups: dict[str, list[Wish]] = defaultdict(list)
        for wish in sorted(desired.wishes, key=lambda wish: wish.name):
            groups[wish.group].append(wish)
        self._orders = [
            (wishes, order)
            for group, wishes in sorted(groups.items())
            if (order := self._order(group, wishes)) is not None
        ]

    def plan(self) -> Plan:
        """Return the steps of the first stage that has any."""
        for stage in (self._make, self._fill, self._container, self._switch, self._unwanted):
            if actions := tuple(stage()):
                return Plan(actions, self._remarks)
        deletes = tuple(self._delete())
        ordered = {rotation.id for rotation in self._desired.rotations}
        left = {delete.name for delete in deletes}
        open_still = {
            order.id
            for wishes, order in self._orders
            if self._missing(wishes, order) or (order.compromised and order.names & left)
        }
        return Plan(deletes, self._remarks, frozenset(ordered - open_still))

    def _order(self, group: str, wishes: list[Wish]) -> Rotation | None:
        """Return what is to happen to a group: what is ordered, what is half done, or what is missing."""
        names = frozenset(wish.name for wish in wishes)
        for ordered in self._desired.rotations:
            if ordered.names & names:
                return replace(ordered, names=ordered.names & names)
        doubled = [name for name in sorted(names) if len(self._has.live(name)) > 1]
        if doubled:  # and nobody ordered it: the database was lost. It is finished forwards
            return self._half_done(names, doubled)
        missing = frozenset(name for name in names if not self._has.live(name))
        if not missing:
            return self._sealed_anew(group, wishes)
        last = {
            wish.name: wish.last for wish in wishes if wish.name in missing and wish.last in self._has.made
        }
        first = first_rotation(self._desired.vps_id, group)
        return Rotation(first, missing, {name: version for name, version in last.items() if version})

    def _sealed_anew(self, group: str, wishes: list[Wish]) -> Rotation | None:
        """Return the order to make anew what is sealed to a key that the VPS has no more."""
        if not self._desired.sealed:
            return None
        (key,) = self._observed.keys
        of_another: set[SecretName] = set()
        for wish in wishes:
            current = self._has.current(wish.name)
            if current and current.marks and current.marks.key not in {"", key.fingerprint}:
                if wish.may_make:
                    of_another.add(wish.name)
                elif key.succeeds(current.marks.key):
                    self._remarks[wish.name] = FORMER_KEY
                else:
                    self._remarks[wish.name] = GIVE_AGAIN if wish.kind == EXTERNAL else DECIDE_ANEW
        if not of_another:
            return None
        return Rotation(_id("key", self._desired.vps_id, group, key.fingerprint), frozenset(of_another))

    def _half_done(self, names: frozenset[SecretName], doubled: list[SecretName]) -> Rotation:
        newest = {name: self._has.live(name)[-1] for name in doubled}
        latest = max(newest.values(), key=lambda entry: (entry.k, self._has.made[entry.version].created))
        marks = self._has.made[latest.version].marks
        targets = {name: entry.version for name, entry in newest.items()}
        if marks is None:
            return Rotation("", frozenset(doubled), targets)
        made = {name: version for name in names if (version := self._has.ready(name, marks.rotation))}
        return Rotation(marks.rotation, frozenset(targets | made), targets | made)

    def _target(self, order: Rotation, name: SecretName) -> Version | None:
        """Return the version that an order wants listed under a name, or None where it is yet to be made."""
        return order.targets.get(name) or self._has.ready(name, order.id)

    def _targets(self, order: Rotation) -> list[tuple[SecretName, Version]]:
        """Return what an order wants listed and has been made."""
        return [(name, version) for name in sorted(order.names) if (version := self._target(order, name))]

    def _missing(self, wishes: list[Wish], order: Rotation) -> list[Wish]:
        """Return what an order wants and nobody has made yet."""
        return [wish for wish in wishes if wish.name in order.names and not self._target(order, wish.name)]

    def _make(self) -> Iterator[Action]:
        for wishes, order in self._orders:
            for wish in self._missing(wishes, order):
                if wish.may_make:
                    yield self._made(wish, order)
                else:
                    self._remarks[wish.name] = GIVE if wish.kind == EXTERNAL else DECIDE

    def _made(self, wish: Wish, order: Rotation) -> Make:
        """Return the step that makes a version; a sealed one with its place among those of its name."""
        marks = Marks(order.id, wish.kind, self._idle_slot(wish))
        if not self._desired.sealed:
            return Make(wish.name, marks)
        (key,) = self._observed.keys
        before = [
            made.marks.sequence for made in self._has.made.values() if made.name == wish.name and made.marks
        ]
        sequence = max(int(self._now * 1000), *(number + 1 for number in before), 1)
        floor = sequence if order.compromised else min(before, default=0)
        marks = replace(marks, sequence=sequence, key=key.fingerprint)
        return Make(wish.name, marks, Seal(key.key, floor, wish.keep_previous_s))

    def _idle_slot(self, wish: Wish) -> str:
        """Return the account of the third party that is idle now."""
        current = self._has.current(wish.name)
        used = current.marks.slot if current and current.marks else ""
        return next((slot for slot in wish.slots if slot != used), "")

    def _fill(self) -> Iterator[Action]:
        """List what a sealed VPS has nothing of yet, while nobody can read its container.

        The first entries can't come with the container, which is there before its key is. Where it is not
        known who can read it, a run may have broken off in the middle of this.
        """
        if not self._desired.sealed:
            return
        new = [
            Entry(name, self._next_k(name, order), version)
            for _, order in self._orders
            for name, version in self._targets(order)
            if not self._has.live(name)
        ]
        granted_to = self._observed.granted_to
        empty = not any(self._has.live(wish.name) for wish in self._desired.wishes)
        if new and granted_to != "" and (empty or granted_to is None):
            yield Grant("", frozenset())
        elif new and granted_to == "":
            yield from map(AddEntry, new)

    def _container(self) -> Iterator[Action]:
        """Create the container with all that is ready, or give the ACLs to whom they belong."""
        if self._observed.container is None:
            entries = {
                Entry(name, 0, version) for _, order in self._orders for name, version in self._targets(order)
            }
            yield CreateContainer(self._desired.user_id, frozenset(entries))
        elif self._observed.granted_to != self._desired.user_id:
            yield Grant(self._desired.user_id, frozenset(self._has.made))

    def _switch(self) -> Iterator[Action]:
        """List what is new; only when all of it is listed take away what is old."""
        for wishes, order in self._orders:
            if self._half_given(wishes, order):
                continue
            targets = self._targets(order)
            for name, version in targets:
                if all(entry.version != version for entry in self._has.entries[name]):
                    yield AddEntry(Entry(name, self._next_k(name, order), version))
            for name, version in targets:
                yield from (RemoveEntry(e) for e in self._has.entries[name] if e.version != version)

    def _half_given(self, wishes: list[Wish], order: Rotation) -> bool:
        """Return whether a part of an order waits for a person: then the others wait too."""
        return any(self._has.live(wish.name) for wish in self._missing(wishes, order))

    def _next_k(self, name: SecretName, order: Rotation) -> int:
        """Return the K of the next entry of a name: 0, or above every K there is.

        K orders doubles. And an entry that was once removed can't be added again (Barbican answers 500), so a
        version that has been listed before gets a K that was never used: the time. Where that can't be seen
        here (a name that was removed and wanted again), the worker takes the next K when it meets the 500.
        """
        highest = max((entry.k for entry in self._has.entries[name]), default=0)
        return next_k(highest, self._now) if highest or name in order.targets else 0

    def _unwanted(self) -> Iterator[Action]:
        """Take away names that no blueprint has any more."""
        for name in sorted(self._has.entries.keys() - {wish.name for wish in self._desired.wishes}):
            yield from (RemoveEntry(entry) for entry in self._has.entries[name])

    def _delete(self) -> Iterator[DeleteSecret]:
        """Delete versions that nothing lists, when they are not needed any more."""
        listed = {entry.version for entry in self._observed.entries}
        ordered = {version for _, order in self._orders for _, version in self._targets(order)}
        kept_s = {wish.name: wish.keep_former_s for wish in self._desired.wishes}
        for _, order in self._orders:
            if order.compromised:
                kept_s |= dict.fromkeys(order.names, 0.0)
        for made in sorted(self._observed.made, key=lambda made: (made.name, made.created, made.version)):
            unneeded = made.version not in listed | ordered
            if unneeded and self._now >= self._kept_until(made, kept_s.get(made.name, REMOVED_S)):
                yield DeleteSecret(made.name, made.version)

    def _kept_until(self, made: Made, kept_s: float) -> float:
        """Return until when a version that nothing lists stays."""
        current = self._has.current(made.name)
        if made.marks is None:
            return made.created + ORPHAN_S
        if current is not None and current.marks and current.marks.making == made.marks.making:
            return made.created + ORPHAN_S  # a twin of what is listed
        if current is None:
            return made.created + kept_s
        return max(made.created, current.created) + kept_s


def _without_key(desired: Desired, observed: Observed) -> Plan:
    """Have the place where the VPS registers its key; where it was lost, with what it listed."""
    user_id = desired.user_id
    if observed.container is None:
        there = {made.version for made in observed.made}
        had = {Entry(wish.name, 0, wish.last) for wish in desired.wishes if wish.last in there and wish.last}
        return Plan((CreateContainer(user_id, frozenset(had)),))
    if observed.granted_to != user_id:
        return Plan((Grant(user_id, frozenset(made.version for made in observed.made)),))
    return Plan(())


def _take_away(observed: Observed, *, delete: bool) -> Iterator[Action]:
    """Let nobody read any more; then, where the VPS is to be gone, delete everything."""
    if observed.granted_to != "" and (observed.container is not None or observed.made):
        yield Grant("", frozenset(made.version for made in observed.made))
    elif delete:
        for made in sorted(observed.made, key=lambda made: (made.name, made.version)):
            yield DeleteSecret(made.name, made.version)
        if observed.container is not None:
            yield DeleteContainer()


def _id(*parts: str) -> str:
    """Return an id that follows from the parts; each is closed by a line feed, which no name has."""
    return hashlib.sha256("".join(f"{part}\n" for part in parts).encode()).hexdigest()[:32]
