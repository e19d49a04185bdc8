"""One VPS: look, plan, do, look whether it was enough, write down what is there now.

Level-triggered: whatever happened before, the plan follows from what Barbican has. The worker holds the lease
of the VPS all the while; when that ran out somebody else goes on, and nothing more is done here (lease.py).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from common.names import SecretName
from deployer.cloud.errors import CloudError
from deployer.core import planning
from deployer.core.model import CreateContainer, DeleteSecret, Grant, Make
from deployer.database import blueprints, engine, history, rotations, secrets, vpses
from deployer.kinds.kind import KindError
from deployer.worker import joining, observing, pacing, wanted
from deployer.worker.doing import Doing
from deployer.worker.means import State
from deployer.worker.recording import Found, Recorder, hopeless

if TYPE_CHECKING:
    from common.names import Version
    from deployer.core.model import Action, Desired, Observed
    from deployer.core.planning import Plan
    from deployer.database.vpses import VpsRow
    from deployer.worker.lease import Lease
    from deployer.worker.means import Means

MAX_ROUNDS: Final = 20
"""Plans of one look; a look that needs more has a defect, or a person who undoes what it does."""
KEYS: Final = ""
"""In place of a group's name: the keys of the VPS are in the way of all of them."""
FORGOTTEN: Final = -1.0
"""The pause of a VPS that is not there any more."""


class Look:
    """One look at one VPS, as long as the lease holds. :meth:`run` may raise whatever stops it."""

    def __init__(self, means: Means, row: VpsRow, lease: Lease) -> None:
        self._means = means
        self._row = row
        self._lease = lease
        self._given_up: dict[str, str] = {}
        """Orders that can't be done any more, and why."""
        self._blocked: dict[str, KindError] = {}
        """Groups whose third party, or whose value, is missing: they wait, the others go on."""
        self._kept: dict[Version, tuple[str, KindError]] = {}
        """Former versions that can't be ended at their third party yet, with their groups."""

    def run(self) -> float:
        """Do all that is to be done now; return the seconds until the next look.

        Raises:
            CloudError, KindError: something failed; what was done before stays, and is written down.
            LeaseLostError: somebody else has the VPS.
            DatabaseError: the database is away.
        """
        if self._row.urgent >= vpses.EMERGENCY:
            pacing.hurry()
        open_still = self._account()
        state = self._read()
        if any(order.reason == "compromised" and order.state == "wanted" for order in state.orders):
            pacing.hurry()  # at the next attempt too, which nobody was woken for
        self._begin(state)
        observed = self._observe(state)
        if self._is_gone(observed):
            return self._forget()
        doing = Doing(self._means, self._row, self._lease)
        observed = self._without_former(state, observed, doing)
        observed, planned = self._settle(state, observed, doing)
        if doing.changed:
            self._means.touch(self._row.id)
        wrong_keys = planning.wrong_keys(self._desired(state), observed)
        if self._row.state == joining.JOINING and wrong_keys == planning.ANOTHER_KEY:
            wrong_keys = ""  # whether it was claimed is asked at the end of this look
        if wrong_keys:
            self._blocked[KEYS] = KindError("deliver", wrong_keys, permanent=True)
        never_joined = self._never_joined(observed)
        if never_joined:
            self._blocked[KEYS] = joining.shut_out(self._means.registrar, self._row.id)
        errors = dict(self._kept.values()) | self._blocked
        blocked = {group: str(error) for group, error in errors.items()}
        found = Found(
            state,
            observed,
            planned.finished,
            self._remarks(state, planned),
            self._given_up,
            blocked,
            never_joined,
            open_still is None,
            wrong_keys=bool(wrong_keys),
        )
        pause = Recorder(self._means, self._row, self._lease.owner).write(found)
        if open_still is not None:
            raise open_still
        if errors:
            raise next(iter(errors.values()))
        return self._forget() if self._is_gone(observed) else pause

    def _without_former(self, state: State, observed: Observed, doing: Doing) -> Observed:
        """Shut out the machine whose place another one takes, also where the registrar can't be asked now."""
        former = planning.of_another(self._desired(state), observed)
        if former is not None:
            self._lease.hold()
            observed = doing.do(state, observed, former)
        return joining.without_former_keys(self._means, self._row, observed)

    def _remarks(self, state: State, planned: Plan) -> dict[SecretName, str]:
        """Return what a person has to do about names; what waits for a third party says so by its error."""
        specs = state.blueprint.secrets
        return {
            name: text for name, text in planned.remarks.items() if specs[name].group not in self._blocked
        }

    def _never_joined(self, observed: Observed) -> bool:
        """Tell whether its user was claimed, and its key should have come long since."""
        row = self._row
        if row.sealing != "required" or row.wanted != "present" or observed.keys:
            return False
        if observed.made and not any(one.marks and one.marks.key for one in observed.made):
            return False  # it has served, and never had a key: one that was set up by hand
        with self._means.database.read() as c:
            return joining.is_late(c, self._means.now(), row.id)

    def _account(self) -> CloudError | None:
        """Have the VPS's user be what it should: there, shut out, or let in again.

        Return what kept it from being shut out: its ACLs are emptied all the same, which acts at once.
        """
        row, registrar = self._row, self._means.registrar
        user_id = row.user_id
        if row.wanted == "present" and not user_id:
            user_id = registrar.make(row.id)
        elif row.wanted != "present" and user_id:
            # each time: somebody may have let it in again, or a giving back that broke off
            try:
                words = registrar.disable(row.id)
                self._left_to_a_person(words if row.state not in {"revoked", "retired"} else "")
            except CloudError as error:
                return error
        elif row.wanted == "present" and row.state == "revoked":
            self._left_to_a_person(registrar.enable(row.id))
        if user_id != row.user_id:
            with self._means.database.write() as c:
                vpses.seen(c, engine.time_of(c), row.id, self._lease.owner, user_id=user_id)
                history.note(
                    c, self._means.now(), "worker", "account.made", vps=row.id, detail={"user": user_id}
                )
            self._row = replace(row, user_id=user_id)
        return None

    def _left_to_a_person(self, words: str) -> None:
        """Keep what only a person can do: operation, status and history tell it."""
        if words:
            with self._means.database.write() as c:
                history.by_hand(c, engine.time_of(c), self._row.id, words)

    def _read(self) -> State:
        row = self._row
        with self._means.database.read() as c:
            text = blueprints.get(c, row.blueprint)
            orders = rotations.open_of(c, row.id)
            known = observing.Known(row, secrets.versions_of(c, row.id))
            found = secrets.of(c, row.id)
            claimed_at = joining.claimed_at(c, row.id)
        parsed = self._means.parse(row.blueprint, text.text if text else "")
        return State(parsed, orders, found, known, claimed_at)

    def _begin(self, state: State) -> None:
        """Count an attempt at every order that is not listed yet."""
        orders = [order.id for order in state.orders if order.state == "wanted"]
        if orders:
            with self._means.database.write() as c:
                now = engine.time_of(c)
                vpses.hold(c, now, self._row.id, self._lease.owner)
                for order in orders:
                    rotations.begun(c, order, now)

    def _observe(self, state: State) -> Observed:
        """Look with one call, and with all where that shows that there is something to do."""
        barbican, known = self._means.barbican, state.known
        daily = observing.is_daily(self._row, self._means.now())
        unlisted = any(order.state == "wanted" for order in state.orders)
        if not (self._row.failures or unlisted or daily or self._row.wanted == "retired"):
            observed = observing.look(barbican, known)
            if not planning.plan(self._desired(state), observed, self._means.now()).actions:
                return observed
        return observing.look_at_all(barbican, known, state.blueprint.secrets)

    def _desired(self, state: State) -> Desired:
        row = self._row
        orders = [
            order for order in state.orders if order.state == "wanted" and order.id not in self._given_up
        ]
        want = wanted.desired(
            row, state.blueprint, orders, state.secrets, self._waits, claimed_at=state.claimed_at
        )
        blocked = {name for name, spec in state.blueprint.secrets.items() if spec.group in self._blocked}
        return replace(
            want,
            wishes=tuple(replace(w, may_make=w.may_make and w.name not in blocked) for w in want.wishes),
            rotations=tuple(one for one in want.rotations if not one.names & blocked),
        )

    def _settle(self, state: State, observed: Observed, doing: Doing) -> tuple[Observed, Plan]:
        """Plan and do until nothing is left; return what is there then, and the last plan."""
        for order in state.orders:
            reason = (
                hopeless(order, state, observed, self._waits, self._means.now())
                if order.state == "wanted"
                else ""
            )
            if reason:
                self._given_up[order.id] = reason
        if self._row.wanted != "retired":
            self._lock(state, observed, doing)
        rounds = 0
        while rounds < MAX_ROUNDS:
            rounds += 1
            planned = planning.plan(self._desired(state), observed, self._means.now())
            actions = [one for one in planned.actions if not self._is_kept(one)]
            if not actions:
                return observed, planned
            for action in actions:
                if self._blocked and _is_first(action):
                    raise next(iter(self._blocked.values()))  # at first all or nothing
                self._lease.hold()
                if _lets_in(action):
                    self._means.registrar.confirm(self._row.id, self._row.user_id)
                try:
                    observed = doing.do(state, observed, action)
                except KindError as error:
                    self._block(state, action, error)
                    rounds -= 1  # there are only so many that can be in the way
                    break
        raise KindError("reconcile", f"{self._row.id} is not settled after {MAX_ROUNDS} plans")

    def _lock(self, state: State, observed: Observed, doing: Doing) -> None:
        """End what compromised values open at third parties, all of it before the first new one is made.

        A name whose new value is there already is left alone: that would lock the new one out. Where a third
        party does not answer, its group waits: a new value beside an open former one would end nothing.
        """
        index = planning.Index(observed)
        for order in state.orders:
            if order.reason != "compromised" or order.state != "wanted" or order.id in self._given_up:
                continue
            for name in map(SecretName, order.names):
                spec = state.blueprint.secrets.get(name)
                if spec is None or index.ready(name, order.id):
                    continue
                try:
                    doing.lock(state, observed, name, order.id)
                except KindError as error:
                    self._blocked[spec.group] = error

    def _waits(self, name: SecretName) -> bool:
        return self._means.external.waits(self._row.id, name)

    def _is_kept(self, action: Action) -> bool:
        return isinstance(action, DeleteSecret) and action.version in self._kept

    def _block(self, state: State, action: Action, error: KindError) -> None:
        """Let what a third party does not take wait, and the rest go on."""
        if not isinstance(action, (DeleteSecret, Make)):
            raise error  # nothing else asks a third party
        spec = state.blueprint.secrets.get(action.name)
        group = spec.group if spec else action.name
        if isinstance(action, DeleteSecret):
            self._kept[action.version] = group, error
        else:
            self._blocked[group] = error

    def _is_gone(self, observed: Observed) -> bool:
        """Tell whether nothing is left of a VPS that is to be gone."""
        return self._row.wanted == "retired" and observed.container is None and not observed.made

    def _forget(self) -> float:
        """Forget a VPS of which nothing is left, and its user, whom a look that broke off may have made."""
        self._left_to_a_person(self._means.registrar.delete(self._row.id))
        with self._means.database.write() as c:
            vpses.forget(c, engine.time_of(c), self._row.id, self._lease.owner)
        return FORGOTTEN


def _is_first(action: Action) -> bool:
    """Tell whether a step begins to show a VPS its first secrets: the container, or its filling."""
    if isinstance(action, CreateContainer):
        return bool(action.entries)
    return isinstance(action, Grant) and not action.user_id and not action.versions


def _lets_in(action: Action) -> bool:
    """Tell whether a step names the VPS's user in an ACL."""
    return isinstance(action, (Make, CreateContainer)) or (isinstance(action, Grant) and bool(action.user_id))
