"""The application's socket: lists, hands over and watches the secrets that the caller's grants cover.

Every decision is made on one snapshot without an await between reading it and building the answer. A name
that no grant covers is 403 whether it exists or not.
"""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING, Final

from agent.core.access import any_grant_matches, decide
from agent.core.errors import (
    BAD_PARAMETER,
    NO_PEER,
    NO_PREVIOUS,
    NO_SUCH_PATH,
    NO_SUCH_SECRET,
    NOT_GRANTED,
    NOT_READY,
    UNAVAILABLE,
    RequestError,
)
from agent.serve.endpoints import watch
from agent.serve.endpoints.strangers import after_look_up
from agent.serve.host import clock
from agent.serve.host.audit import Record
from agent.serve.http.responses import Answer, Response, field, json_response
from agent.serve.http.target import Target, name_of
from agent.serve.sync import freshness
from common.names import parse_name

if TYPE_CHECKING:
    from agent.core.access import Peer
    from agent.core.http import Request
    from agent.core.secret import Secret, Snapshot
    from agent.serve.http.responses import Said
    from agent.serve.state import State
    from agent.serve.sync.account_finder import AccountFinder
    from common.names import SecretName

NAME: Final = "app"
_SECRETS: Final = "/v1/secrets/"
_PATHS: Final = frozenset({"/v1/secrets", "/v1/bundle", "/v1/watch"})
"""What a caller without any grant may not ask: the answer would be about somebody else's secrets."""


class AppDoor:
    """Answers the requests of docs/socket-api.md over ``state``."""

    name: Final = NAME
    records_may_wait: Final = False

    def __init__(self, state: State, finder: AccountFinder) -> None:
        self._state = state
        self._finder = finder

    def wants_unit(self) -> bool:
        """Return whether a grant names a unit, so that a caller's must be looked up."""
        return any(grant.unit for grant in self._state.grants)

    def knows(self, peer: Peer) -> bool:
        """Return whether a grant means the caller."""
        return any_grant_matches(peer, self._state.grants)

    def answer(self, request: Request, peer: Peer | None) -> Said:
        """Decide one request.

        Raises:
            RequestError: the caller gets an error answer.
        """
        try:
            return self._answer(request, peer)
        except RequestError as error:
            if error.problem is not NOT_GRANTED:
                raise
            return after_look_up(self._finder, lambda: self._answer(request, peer), request.path, error)

    def _answer(self, request: Request, peer: Peer | None) -> Said:
        target = Target(request)
        if target.path == "/v1/health/live":
            target.allow("GET", head=True)
            return Answer(Record("served", 200, target.path, {}), json_response({"live": True}))
        if peer is None:
            raise RequestError(NO_PEER)
        if target.path in _PATHS and not self.knows(peer):
            raise RequestError(NOT_GRANTED)
        if target.path.startswith(_SECRETS):
            return self._secret(target, peer, request.fields.get("if-none-match", ""))
        if target.path == "/v1/secrets":
            return self._list(target, peer)
        if target.path == "/v1/bundle":
            return self._bundle(target, peer, request.fields.get("if-none-match", ""))
        if target.path == "/v1/watch":
            return watch.answer(self._state, target, request, peer)
        if target.path == "/v1/health/ready":
            return self._ready(target, peer)
        raise RequestError(NO_SUCH_PATH, "there are /v1/secrets, /v1/bundle, /v1/watch and /v1/health/ready")

    def _secret(self, target: Target, peer: Peer, if_none_match: str) -> Answer:
        """Hand over one payload."""
        target.allow("GET", "version")
        untrusted_name = target.path.removeprefix(_SECRETS)
        if parse_name(untrusted_name) is None and not self.knows(peer):
            raise RequestError(NOT_GRANTED)  # without any grant it is 403, whatever was asked for
        name = name_of(untrusted_name)
        decision = decide(peer, name, self._state.grants)
        if decision.grant is None:
            raise RequestError(NOT_GRANTED, names=(name,))
        snapshot = self._snapshot((name,))
        secret = self._version(target, snapshot, name)
        facts = secret.facts
        age = freshness.age(self._state)
        fields = (
            f'ETag: "{facts.version}"\r\nSecrets-Generation: {snapshot.generation}\r\nAge: {int(age)}\r\n'
            f"Content-Type: {facts.content_type}\r\n"
        )
        if name in snapshot.remarks.kept or age > freshness.fresh_for(self._state):
            fields += "Secrets-Stale: true\r\n"
        same = bool(if_none_match) and _matches(if_none_match, facts.version)
        record = Record(
            "served",
            304 if same else 200,
            target.path,
            {name: facts.version},
            snapshot.generation,
            (decision.grant.index + 1,),
        )
        if same:
            return Answer(record, Response(304, fields))
        return Answer(record, Response(200, fields, secret.reveal()))

    def _version(self, target: Target, snapshot: Snapshot, name: SecretName) -> Secret:
        """Return the version that was asked for."""
        wanted = target.text("version")
        if wanted not in {None, "current", "previous"}:
            raise RequestError(BAD_PARAMETER, "version must be current or previous")
        if wanted == "previous":
            secret, until = snapshot.previous.get(name, (None, 0.0))
            if secret is None or until <= clock.boot():
                raise RequestError(NO_PREVIOUS, names=(name,))
            return secret
        if name not in snapshot.current:
            listed = name in snapshot.remarks.pending
            raise RequestError(UNAVAILABLE if listed else NO_SUCH_SECRET, names=(name,))
        return snapshot.current[name]

    def _list(self, target: Target, peer: Peer) -> Answer:
        """Tell what the caller may read, without values."""
        target.allow("GET")
        snapshot = self._snapshot()
        readable = self._readable(snapshot, peer)
        listed = [freshness.describe(self._state, secret) for secret in readable.values()]
        record = Record("served", 200, target.path, {}, snapshot.generation)
        content = {
            "generation": snapshot.generation,
            "secrets": listed,
            "pending": self._pending(peer),
        }
        return Answer(record, json_response(content))

    def _bundle(self, target: Target, peer: Peer, if_none_match: str) -> Answer:
        """Hand over all that the caller may read, from one snapshot."""
        target.allow("GET")
        snapshot = self._snapshot()
        readable = self._readable(snapshot, peer)
        pending = self._pending(peer)
        versions: dict[str, str | None] = {name: secret.facts.version for name, secret in readable.items()}
        # all that the body is made of, so two bodies that differ never have the same, in whatever run
        etag = hashlib.sha256(repr((snapshot.generation, versions, pending)).encode()).hexdigest()[:32]
        fields = field("ETag", f'"{etag}"') + field("Secrets-Generation", str(snapshot.generation))
        if _matches(if_none_match, etag):
            record = Record("served", 304, target.path, versions, snapshot.generation)
            return Answer(record, Response(304, fields))
        record = Record("served", 200, target.path, versions, snapshot.generation)
        values = {name: _as_json(secret.reveal()) for name, secret in readable.items()}
        content = {"generation": snapshot.generation, "secrets": values, "pending": pending}
        return Answer(record, json_response(content, fields))

    def _ready(self, target: Target, peer: Peer) -> Answer:
        """Return whether the application can rely on what is served."""
        target.allow("GET", head=True)
        reason = freshness.unready(self._state)
        if not self.knows(peer):  # that it is ready or not, and nothing about whose secrets and why
            if reason is not None:
                raise RequestError(NOT_READY)
            return Answer(Record("served", 200, target.path, {}), json_response({"ready": True}))
        attempt = freshness.next_attempt_in(self._state)
        if reason is not None:
            raise RequestError(NOT_READY, reason, retry_after=attempt, members={"nextAttemptIn": attempt})
        snapshot = self._snapshot()
        content = {
            "ready": True,
            "generation": snapshot.generation,
            "confirmedAge": freshness.age(self._state),
            "state": freshness.summary(self._state),
            "pending": self._pending(peer),
        }
        return Answer(Record("served", 200, target.path, {}, snapshot.generation), json_response(content))

    def _snapshot(self, names: tuple[SecretName, ...] = ()) -> Snapshot:
        """Return what is held.

        Raises:
            RequestError: nothing is held. About the ``names`` asked for their own answers say more.
        """
        snapshot = self._state.store.snapshot
        if snapshot is None or not (snapshot.current or names):
            attempt = freshness.next_attempt_in(self._state)
            raise RequestError(
                NOT_READY,
                freshness.unready(self._state) or "",
                retry_after=attempt,
                names=names,
                members={"nextAttemptIn": attempt},
            )
        return snapshot

    def _pending(self, peer: Peer) -> list[SecretName]:
        """Return which of the listed secrets without a value the caller may read."""
        return sorted(
            n for n in freshness.pending(self._state) if decide(peer, n, self._state.grants).allowed
        )

    def _readable(self, snapshot: Snapshot, peer: Peer) -> dict[SecretName, Secret]:
        grants = self._state.grants
        return {n: s for n, s in sorted(snapshot.current.items()) if decide(peer, n, grants).allowed}


def _as_json(payload: bytes) -> str | dict[str, str]:
    try:
        return payload.decode()
    except UnicodeDecodeError:
        pass
    return {"base64": base64.b64encode(payload).decode()}


def _matches(untrusted_if_none_match: str, etag: str) -> bool:
    """Compare weakly, as RFC 9110, 13.1.2 asks for; a list is allowed."""
    candidates = [part.strip().removeprefix("W/") for part in untrusted_if_none_match.split(",")]
    return "*" in candidates or f'"{etag}"' in candidates
