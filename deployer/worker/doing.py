"""One step of a plan, done: the calls of Barbican and of a third party, and what is written down about it."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from deployer.cloud.errors import CloudError
from deployer.core import planning
from deployer.core.model import (
    AddEntry,
    CreateContainer,
    DeleteContainer,
    DeleteSecret,
    Grant,
    Make,
    Marks,
    RemoveEntry,
)
from deployer.database import engine, history, vpses
from deployer.kinds.kind import Facts, NoThirdParty
from deployer.worker import making

if TYPE_CHECKING:
    from common.names import SecretName, Version
    from deployer.core.model import Action, Entry, Observed
    from deployer.database.vpses import VpsRow
    from deployer.worker.lease import Lease
    from deployer.worker.means import Means, State

LOG: Final = logging.getLogger("deployer.worker")
LOCKED: Final = "secret.locked"
MAX_K_TRIES: Final = 5
SERVER_ERROR: Final = 500


class Doing:
    """Takes steps for one VPS as long as the lease holds. Each may raise CloudError or KindError."""

    def __init__(self, means: Means, row: VpsRow, lease: Lease) -> None:
        self._means = means
        self._row = row
        self._lease = lease
        self.changed = False
        """Whether an agent would see a difference."""

    def do(self, state: State, observed: Observed, action: Action) -> Observed:
        """Take one step."""
        barbican, row = self._means.barbican, self._row
        container = observed.container
        version: Version | None = None
        match action:
            case Make():
                version = self._make(state, observed, action)
            case CreateContainer(user_id, entries):
                version = barbican.create_container(row.id, entries)
                barbican.grant_container(version, user_id)
            case Grant():
                self._grant(container, action)
            case AddEntry(entry) if container:
                action = AddEntry(self._add(container, entry))
            case RemoveEntry(entry) if container:
                barbican.remove_entry(row.id, container, entry)
            case DeleteSecret(_, gone):
                self._retire(state, observed, action)
                barbican.delete_secret(gone)
            case DeleteContainer() if container:
                barbican.delete_container(container)
        self.changed = self.changed or not isinstance(action, (Make, DeleteSecret))
        LOG.info("%s: %s", row.id, _words(action))
        return planning.after(observed, action, version=version, now=self._means.now())

    def lock(self, state: State, observed: Observed, name: SecretName, order: str) -> None:
        """End every account of a compromised secret at its third party, and who uses one now.

        Once for an order: the next value may have to wait for a machine that is made anew.
        """
        spec = state.blueprint.secrets[name]
        kind = self._means.kinds[spec.kind]
        if getattr(type(kind), "lock", None) is NoThirdParty.lock:
            return
        with self._means.database.read() as c:
            if history.has(c, self._row.id, LOCKED, name, order):
                return
        self._lease.hold()
        kind.lock(self._facts(state, observed, name, Marks(order, spec.kind, "")))
        LOG.info("%s: locked the accounts of %s at its third party", self._row.id, name)
        self._lease.hold()  # that may have taken long
        with self._means.database.write() as c:
            vpses.hold(c, engine.time_of(c), self._row.id, self._lease.owner)
            history.note(c, self._means.now(), "worker", LOCKED, vps=self._row.id, name=name, rotation=order)

    def _make(self, state: State, observed: Observed, action: Make) -> Version:
        """Make one version and write in the history which, and its public half where it has one."""
        facts = self._facts(state, observed, action.name, action.marks)
        kind = self._means.kinds[action.marks.kind]
        made = making.make(self._means.barbican, kind, facts, action, self._row.user_id, self._lease.hold)
        with self._means.database.write() as c:
            vpses.hold(c, engine.time_of(c), self._row.id, self._lease.owner)
            history.note(
                c,
                self._means.now(),
                "worker",
                "secret.made",
                vps=self._row.id,
                name=action.name,
                rotation=action.marks.rotation,
                detail={
                    "version": made.version,
                    "slot": action.marks.slot,
                    "sealedTo": action.marks.key,
                    "public": (made.public or "").splitlines(),
                },
            )
        return made.version

    def _facts(self, state: State, observed: Observed, name: SecretName, marks: Marks) -> Facts:
        listed = frozenset(entry.version for entry in observed.entries)
        spec = state.blueprint.secrets[name]
        return Facts(self._row.id, name, marks.slot, "", marks.rotation, spec, listed)

    def _retire(self, state: State, observed: Observed, action: DeleteSecret) -> None:
        """End a former version at its third party, before Barbican forgets it."""
        made = next((one for one in observed.made if one.version == action.version), None)
        if made is None or made.marks is None or action.name not in state.blueprint.secrets:
            return
        kind = self._means.kinds.get(made.marks.kind)
        if kind is not None and made.marks.kind == state.blueprint.secrets[action.name].kind:
            facts = self._facts(state, observed, action.name, made.marks)
            kind.retire(replace(facts, version=action.version))
            self._lease.hold()  # that may have taken long

    def _grant(self, container: Version | None, action: Grant) -> None:
        """Set every ACL. To take access away the container comes first, which ends all at once."""
        barbican, user_id = self._means.barbican, action.user_id
        with self._means.database.write() as c:  # if this breaks off, nobody knows whom they name
            vpses.seen(c, engine.time_of(c), self._row.id, self._lease.owner, granted_to=None)
        if container and not user_id:
            barbican.grant_container(container, user_id)
        for version in sorted(action.versions):
            barbican.grant_secret(version, user_id)
        if container and user_id:
            barbican.grant_container(container, user_id)

    def _add(self, container: Version, entry: Entry) -> Entry:
        """Add an entry; under another K where Barbican had it before, which it answers with 500."""
        for _ in range(MAX_K_TRIES):
            try:
                self._means.barbican.add_entry(self._row.id, container, entry)
            except CloudError as error:
                if error.status != SERVER_ERROR:
                    raise
                failed = error
                entry = replace(entry, k=planning.next_k(entry.k, self._means.now()))
            else:
                return entry
        raise failed


def _words(action: Action) -> str:
    """Return a step in words; names and versions are no secrets."""
    match action:
        case Make(name, marks):
            return f"made a version of {name} for the rotation {marks.rotation}"
        case CreateContainer(_, entries):
            return f"made the container with {len(entries)} entries"
        case Grant(user_id, versions):
            return f"let {user_id or 'nobody'} read the container and {len(versions)} versions"
        case AddEntry(entry):
            return f"listed {entry.version} as {entry.name}" + (f"~{entry.k}" if entry.k else "")
        case RemoveEntry(entry):
            return f"took {entry.version} off the list as {entry.name}"
        case DeleteSecret(name, version):
            return f"deleted the version {version} of {name}"
        case DeleteContainer():
            return "deleted the container"
