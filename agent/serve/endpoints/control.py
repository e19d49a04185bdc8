"""The operators' socket: status, refresh, manifest, explain and metrics. There is no way to a value here."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from agent import __version__
from agent.config.beacon import shown
from agent.core import expiry, renewal
from agent.core.access import decide, explain
from agent.core.errors import (
    BAD_PARAMETER,
    NO_SUCH_PATH,
    NOT_ADMIN,
    NOT_READY,
    REFRESH_FAILED,
    RequestError,
)
from agent.core.reach import kept_out
from agent.core.wire_fields import failure_out, no_calls
from agent.serve.endpoints import metrics
from agent.serve.endpoints.strangers import after_look_up
from agent.serve.host import audit, clock, renewal_file
from agent.serve.host.audit import Record
from agent.serve.http.responses import Answer, DeferredAnswer, Response, field, json_response
from agent.serve.http.target import Target, name_of
from agent.serve.sync import acknowledging, call_budget, freshness
from agent.serve.sync.freshness import describe
from common.dates import date
from common.manifest import Manifest, Reference, encode

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from agent.core.access import Peer
    from agent.core.errors import Failure
    from agent.core.http import Request
    from agent.serve.http.responses import Said
    from agent.serve.state import State
    from agent.serve.sync.account_finder import AccountFinder
    from agent.serve.sync.refresher import Refreshed
    from common.names import SecretName

NAME: Final = "control"
DENIED: Final = "denied"
METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class ControlDoor:
    """Answers root, members of ``admin_group`` and the agent's own user; ``refresh`` is the refresher's.

    ``app_socket`` is where the application's socket is, or None where systemd could not make it.
    """

    name: Final = NAME
    records_may_wait: Final = True

    def __init__(
        self,
        state: State,
        refresh: Callable[[], Awaitable[Refreshed]],
        finder: AccountFinder,
        app_socket: Path | None,
    ) -> None:
        self._state = state
        self._app_socket = app_socket
        self._finder = finder
        self._refresh = refresh

    def wants_unit(self) -> bool:
        """Nobody's unit matters here."""
        return False

    def knows(self, peer: Peer) -> bool:
        """Return whether the caller is root, an administrator or the agent's own user."""
        admins = self._state.admins
        return peer.uid in {0, os.geteuid()} or (admins is not None and admins in peer.groups)

    def answer(self, request: Request, peer: Peer | None) -> Said:
        """Decide one request.

        Raises:
            RequestError: the caller gets an error answer.
        """
        try:
            return self._answer(request, peer)
        except RequestError as error:
            if error.problem is not NOT_ADMIN:
                raise
            return after_look_up(self._finder, lambda: self._answer(request, peer), request.path, error)

    def _answer(self, request: Request, peer: Peer | None) -> Said:
        target = Target(request)
        if peer is None or not self.knows(peer):
            group = self._state.config.control.admin_group
            raise RequestError(NOT_ADMIN, f"be root or a member of {group}")
        if target.path == "/v1/refresh":
            target.allow("POST")
            return DeferredAnswer(lambda: self._answer_refresh(target))
        if target.path == "/v1/explain":
            target.allow("GET", "user", "unit", "name")
            return self._explain(target)
        target.allow("GET")
        if target.path == "/v1/status":
            return _answer(target, self._status())
        if target.path == "/v1/manifest":
            return _answer(target, self._manifest())
        if target.path == "/metrics":
            text = metrics.exposition(self._state).encode()
            response = Response(200, field("Content-Type", METRICS_TYPE), text)
            return Answer(Record("served", 200, target.path, {}, counts_only=True), response)
        raise RequestError(
            NO_SUCH_PATH, "there are /v1/status, /v1/refresh, /v1/manifest, /v1/explain and /metrics"
        )

    def _status(self) -> dict[str, object]:
        state, health, snapshot = self._state, self._state.health, self._state.store.snapshot
        uptime = clock.boot() - state.started
        secrets = [] if snapshot is None else [snapshot.current[n] for n in sorted(snapshot.current)]
        previous = {} if snapshot is None else snapshot.previous
        return {
            "agent": {
                "version": __version__,
                "pid": os.getpid(),
                "startedAt": clock.wall() - uptime,
                "uptime": uptime,
                "stopping": state.stopping,
            },
            "vpsId": state.config.vps_id,
            "state": freshness.summary(state),
            "notReady": freshness.unready(state),
            "generation": snapshot.generation if snapshot else None,
            "confirmedAge": None if health.confirmed is None else freshness.age(state),
            "nextAttemptIn": freshness.next_attempt_in(state),
            "droppedIn": freshness.dropped_in(state),
            "cycles": {
                "total": health.cycles,
                "failed": health.cycles_failed,
                "inARow": health.failures,
                "lastSeconds": health.last_cycle,
                "calls": {service: sum(n.values()) for service, n in by_service(health.calls).items()},
                "outcomes": by_service(health.calls),
                "timings": health.timings,
            },
            "budget": _budget(state),
            "credentialExpires": _date(health.credential_expires),
            "renewal": _renewal(state),
            "failure": _failure(health.failure),
            "beacon": _beacon(state),
            "acknowledged": _acknowledged(state),
            "secrets": [
                describe(state, s)
                | {
                    "previous": s.facts.name in previous,
                    "openedBy": s.facts.seal.key if s.facts.seal else None,
                }
                for s in secrets
            ],
            "pending": sorted(freshness.pending(state)),
            "foreign": list(health.rejected),
            "grants": [str(grant) for grant in state.grants],
            "warnings": list(warnings(state)),
            "configurationError": health.configuration_error,
            "memory": state.store.memory_facts(),
            "connections": dict(state.traffic.connections),
            "watchers": state.traffic.watchers,
            "unrecorded": dict(state.traffic.unrecorded),
            "denied": {
                door: n for (door, outcome), n in state.traffic.requests.items() if outcome == "denied"
            },
        }

    async def _answer_refresh(self, target: Target) -> Answer:
        refreshed = await self._refresh()
        if refreshed.failure is not None:
            raise RequestError(
                REFRESH_FAILED,
                str(refreshed.failure),
                members={
                    "failure": failure_out(refreshed.failure),
                    "nextAttemptIn": freshness.next_attempt_in(self._state),
                },
            )
        content = {
            "generation": refreshed.generation,
            "changed": refreshed.changed,
            "seconds": refreshed.seconds,
            "notReady": freshness.unready(self._state),
            "pending": sorted(freshness.pending(self._state)),
        }
        return _answer(target, content)

    def _explain(self, target: Target) -> DeferredAnswer:
        user, unit, name = target.text("user"), target.text("unit"), target.text("name")
        if user is None or name is None:
            raise RequestError(BAD_PARAMETER, "user and name are needed, unit is possible")
        parsed = name_of(name)

        async def later() -> Answer:
            caller = await self._finder.peer_of(user, unit)
            if caller is None:
                lines = ["there is no such user on this machine"]
                return _answer(target, {"allowed": False, "lines": lines, "caller": None})
            return _answer(target, self._explained(caller, parsed, await self._kept_out(caller, user)))

        return DeferredAnswer(later)

    def _explained(self, caller: Peer, parsed: SecretName, kept_out_by: str | None) -> dict[str, object]:
        allowed, snapshot = decide(caller, parsed, self._state.grants).allowed, self._state.store.snapshot
        lines = explain(caller, parsed, self._state.grants)
        if allowed and snapshot is not None and parsed not in snapshot.current:
            lines.append("no secret of this name is held: the answer is 404, or 503 until it can be read")
        if kept_out_by:
            lines.append(f"app.sock: {kept_out_by}")
            if caller.unit is None:
                allowed = False
            else:
                lines.append(
                    f"unless {caller.unit} gives its processes other groups, or reads by LoadCredential="
                )
        return {
            "allowed": allowed,
            "lines": lines,
            "caller": {"uid": caller.uid, "groups": sorted(caller.groups)},
        }

    async def _kept_out(self, caller: Peer, user: str) -> str | None:
        """Return what keeps a caller from the application's socket, whatever is granted; None: nothing."""
        if self._app_socket is None:
            return "no, systemd could not make it: see the warnings of status"
        try:
            way = await self._finder.way_to(self._app_socket)
        except FileNotFoundError:
            return f"no, {self._app_socket} is not there any more: systemctl restart vps-secrets-app.socket"
        if way is None:
            return None
        *directories, socket = way
        return kept_out(caller, user, tuple(directories), socket)

    def _manifest(self) -> dict[str, object]:
        """Return references only: what the deployment's database backs up."""
        snapshot, config = self._state.store.snapshot, self._state.config
        why_not = freshness.unready(self._state)
        if snapshot is None or why_not is not None:  # a backup must not learn that there are no secrets
            raise RequestError(NOT_READY, why_not or "")
        references = {
            name: Reference(secret.facts.version, secret.facts.created, secret.facts.expires)
            for name, secret in snapshot.current.items()
        }
        container = config.container.reference or f"/v1/containers/{config.container.id}"
        return encode(Manifest(config.vps_id, container, references))


def by_service(calls: Counter[tuple[str, str]]) -> dict[str, dict[str, int]]:
    """Return service → outcome → calls since the agent's start."""
    counted = no_calls()
    for (service, outcome), number in calls.items():
        counted[service][outcome] = number
    return counted


def _budget(state: State) -> dict[str, object]:
    """Return the month's calls to Barbican, what they will cost, and what the limit on them does."""
    month, settings = call_budget.outlook(state), state.config.budget
    return {
        "month": datetime.fromtimestamp(month.month.start, UTC).strftime("%Y-%m"),
        "countedSince": _date(month.since),
        "wholeMonth": month.since - month.month.start < call_budget.WHOLE_MONTH_S,
        "calls": round(month.calls),
        "callsPerMonth": settings.calls_per_month,
        "projectedCalls": round(month.projected_calls),
        "projectedCost": round(month.projected_cost, 4),
        "currency": settings.currency,
        "pollInterval": state.health.poll_interval,
        "freshFor": freshness.fresh_for(state),
        "stretched": call_budget.why_stretched(state),
    }


def _beacon(state: State) -> dict[str, object] | None:
    """Return how the watch over the beacon goes, or None where none is configured."""
    settings, beacon_status = state.config.beacon, state.beacon
    if settings is None:
        return None
    now = clock.boot()
    return {
        "url": shown(settings.url),
        "state": beacon_status.state,
        "since": None if beacon_status.since is None else now - beacon_status.since,
        "lastSeen": None if beacon_status.seen is None else freshness.last_look(state),
        "lastChange": None if beacon_status.changed is None else now - beacon_status.changed,
        "nextLookIn": None if beacon_status.next_look is None else max(0.0, beacon_status.next_look - now),
        "pollIn": None if beacon_status.poll_at is None else max(0.0, beacon_status.poll_at - now),
        "failuresInARow": beacon_status.failures,
        "failure": _failure(beacon_status.failure),
        "events": dict(beacon_status.events),
    }


def _acknowledged(state: State) -> dict[str, object] | None:
    """Return which generation the container says is served, or None where it is not told."""
    status = state.acknowledgement
    if not state.config.fetch.acknowledge:
        return None
    return {
        "generation": status.generation,
        "at": _date(status.at),
        "current": acknowledging.is_current(state),
        "problem": status.problem or None,
    }


def _renewal(state: State) -> dict[str, object] | None:
    """Return when this VPS's credential is renewed next, or None where nothing renews it."""
    record = renewal_file.read(state.config.path)
    if record is None:
        return None
    return {
        "next": _date(record.next),
        "renewedAt": _date(record.renewed),
        "triedAt": _date(record.tried),
        "problem": renewal.warning(record, clock.wall()) or None,
    }


def _about_renewal(state: State) -> list[str]:
    record = renewal_file.read(state.config.path)
    said = renewal.warning(record, clock.wall()) if record else ""
    return [said] if said else []


def warnings(state: State) -> tuple[str, ...]:
    """Return what an operator should know although everything works."""
    found = [*state.warnings, *state.health.warnings, *state.health.notices, *_about_renewal(state)]
    if expiring := expiry.warning(state.health.credential_expires, clock.wall()):
        found.append(expiring)
    if trouble := audit.trouble():
        found.append(trouble)
    if trouble := freshness.unsure(state):
        found.append(trouble)
    if not state.grants:
        found.append("there are no grants: nobody may read anything")
    if not state.store.memory_facts()["unswappable"]:
        found.append("the payloads are in memory that can be swapped: raise LimitMEMLOCK=")
    if state.config.fetch.acknowledge and state.acknowledgement.problem:
        found.append(state.acknowledgement.problem)
    if state.health.list_refused and state.config.fetch.list_metadata:
        found.append(
            "Barbican does not give the list that fetch.list_metadata asks for, which costs calls each time: "
            "check the account's role and the access rule GET /v1/secrets"
        )
    if call_budget.is_used_up(state) and freshness.is_stretched(state):
        found.append(str(call_budget.why_stretched(state)))
    if state.health.configuration_error:
        found.append("the last reload was refused; the configuration before it is in force")
    found += [f"the container lists {name!r}, which is not this VPS's" for name in state.health.rejected]
    return tuple(found)


def _answer(target: Target, content: object) -> Answer:
    return Answer(Record("served", 200, target.path, {}), json_response(content))


def _date(moment: float | None) -> str | None:
    return None if moment is None else date(moment)


def _failure(failure: Failure | None) -> dict[str, object] | None:
    return None if failure is None else failure_out(failure)
