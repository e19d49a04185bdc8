"""How old what is served is, and whether the agent is ready: reading only, for the doors and for systemd."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.core import schedule
from agent.core.readiness import Holding, why_not_ready
from agent.core.wire_watch import LOOK_S
from agent.serve.host import audit, clock
from common.durations import span

if TYPE_CHECKING:
    from agent.core.secret import Secret
    from agent.serve.state import State
    from common.names import SecretName


def age(state: State) -> float:
    """Return the seconds since Barbican last agreed with what is held."""
    confirmed = state.health.confirmed
    return clock.boot() - (state.started if confirmed is None else confirmed)


def is_stretched(state: State) -> bool:
    """Return whether polls are further apart than configured, to keep to the budget."""
    every = state.health.poll_interval
    return every is not None and every > state.config.rotation.poll_interval


def fresh_for(state: State) -> float:
    """Return after how many seconds without confirmation a value is stale.

    At least twice a stretched poll interval: stale means that a reading failed, not that it was put off.
    """
    every = state.health.poll_interval if is_stretched(state) else None
    return max(state.config.staleness.fresh_for, 2 * (every or 0.0))


def is_stale(state: State, name: SecretName) -> bool:
    """Return whether a value is past its fresh time, or older than what Barbican lists."""
    snapshot = state.store.snapshot
    kept = snapshot is not None and name in snapshot.remarks.kept
    return kept or age(state) > fresh_for(state)


def next_attempt_in(state: State) -> float | None:
    """Return the seconds to the next reading of Barbican."""
    moment = state.health.next_attempt
    return None if moment is None else max(0.0, moment - clock.boot())


def last_look(state: State) -> float | None:
    """Return the most that the last good look at the beacon is ago (s): a failed one would have been told."""
    settings, beacon_status, now = state.config.beacon, state.beacon, clock.boot()
    if settings is None or beacon_status.seen is None:
        return None
    since = now - beacon_status.seen
    return min(since, schedule.look(settings.interval, max) + LOOK_S) if beacon_status.watched else since


def dropped_in(state: State) -> float | None:
    """Return in how many seconds the values go, where access to them was taken away."""
    since, snapshot = state.health.denied_since, state.store.snapshot
    if since is None or snapshot is None or not snapshot.current:
        return None
    return max(0.0, since + state.config.staleness.revocation_grace - clock.boot())


def pending(state: State) -> frozenset[SecretName]:
    """Return the names that Barbican lists and that have no value: never readable, or dropped since."""
    snapshot = state.store.snapshot
    return (snapshot.remarks.pending if snapshot else frozenset()) | state.health.lost


def unready(state: State) -> str | None:
    """Return why the agent is not ready, or None when it is (agent/core/readiness.py)."""
    health, snapshot = state.health, state.store.snapshot
    limit = state.config.staleness.max_stale
    return why_not_ready(
        Holding(
            read=snapshot is not None,
            held=len(snapshot.current) if snapshot else 0,
            pending=len(pending(state)),
            rejected=len(health.rejected),
            denied=health.denied_since is not None,
            outlived=limit is not None and age(state) > limit,
            failure=str(health.failure) if health.failure else None,
            unrecorded=audit.trouble(),
        )
    )


def unsure(state: State) -> str | None:
    """Return what the system does not say about users and groups, None where it says all."""
    look_ups = state.look_ups
    unknown = f"; not known so far: {', '.join(look_ups.unknown)}" if look_ups.unknown else ""
    if look_ups.late_since is not None:
        return (
            f"the system's user database has not answered for {span(clock.boot() - look_ups.late_since)}: "
            f"see to the services that /etc/nsswitch.conf names; grants hold by its last answers{unknown}"
        )
    if look_ups.unsure:
        return (
            f"the system's user database can't tell about {', '.join(look_ups.unsure)} ({look_ups.why}): "
            f"see to the services that /etc/nsswitch.conf names; grants hold by its last answers{unknown}"
        )
    return None


def summary(state: State) -> str:
    """Return the state in one word: starting, denied, empty, stale or ready."""
    if state.store.snapshot is None:
        return "starting"
    if state.health.denied_since is not None:
        return "denied"
    if not state.store.snapshot.current:
        return "empty"
    stale = age(state) > fresh_for(state) or bool(state.store.snapshot.remarks.kept)
    return "stale" if stale or unready(state) else "ready"


def line(state: State) -> str:
    """Return the state in one line, as it is now: what ``systemctl status`` shows."""
    health, snapshot = state.health, state.store.snapshot
    parts = [summary(state)]
    if snapshot is not None:
        parts[0] += f", confirmed {span(age(state))} ago"
        parts.append(f"generation {snapshot.generation}, {len(snapshot.current)} secrets")
        if pending(state):
            parts.append(f"without a value: {', '.join(sorted(pending(state)))}")
    drop = dropped_in(state)
    if drop is not None:
        parts.append(f"dropped in {span(drop)} unless access is given back")
    attempt = next_attempt_in(state)
    parts.append("reading Barbican now" if not attempt else f"next reading in {span(attempt)}")
    if health.failure is not None:
        parts.append(str(health.failure))
    if trouble := audit.trouble():
        parts.append(trouble)
    if trouble := unsure(state):
        parts.append(trouble)
    parts += [f"{name}.sock is missing" for name in state.missing_sockets]
    if health.configuration_error is not None:
        parts.append("the last reload was refused, the configuration before it is in force")
    return "; ".join(parts)


def describe(state: State, secret: Secret) -> dict[str, object]:
    """Return what may be told about a secret, as JSON members. Times are Unix times, ``age`` seconds."""
    facts = secret.facts
    return {
        "name": facts.name,
        "version": facts.version,
        "contentType": facts.content_type,
        "size": facts.size,
        "created": facts.created,
        "expires": facts.expires,
        "age": age(state),
        "stale": is_stale(state, facts.name),
    }
