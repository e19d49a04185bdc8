"""The metrics in Prometheus' text format (exposition format 0.0.4): counts only, no secret names."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from agent.serve.host import audit
from agent.serve.sync import call_budget, freshness

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.serve.state import State

_PREFIX = "vps_secrets_"


def exposition(state: State) -> str:
    """Return all metrics."""
    return "\n".join(_lines(state)) + "\n"


def _lines(state: State) -> Iterator[str]:
    health, snapshot, traffic = state.health, state.store.snapshot, state.traffic
    month, limit = call_budget.outlook(state), state.config.budget.calls_per_month
    gauges = (
        (
            "ready",
            "1 when the application can rely on what is served",
            float(freshness.unready(state) is None),
        ),
        ("generation", "Grows with each new snapshot", float(snapshot.generation if snapshot else 0)),
        ("secrets", "Secrets served", float(len(snapshot.current) if snapshot else 0)),
        (
            "secrets_pending",
            "Secrets listed but never readable",
            float(len(freshness.pending(state))),
        ),
        ("secrets_kept", "Secrets served in a former version", float(len(snapshot.kept) if snapshot else 0)),
        ("foreign_entries", "Entries of the container that are not this VPS's", float(len(health.rejected))),
        ("confirmed_age_seconds", "Since Barbican last agreed with what is served", freshness.age(state)),
        ("next_attempt_seconds", "Until Barbican is read again", freshness.next_attempt_in(state) or 0.0),
        ("failures_in_a_row", "Cycles that failed since the last good one", float(health.failures)),
        ("access_denied", "1 while access is taken away", float(health.denied_since is not None)),
        ("configuration_error", "1 after a refused reload", float(health.configuration_error is not None)),
        ("audit_unavailable", "1 while no audit record can be written", float(audit.trouble() is not None)),
        ("watchers", "Clients that wait for a change", float(traffic.watchers)),
        ("tasks", "Tasks of the event loop", float(len(asyncio.all_tasks()))),
        ("beacon_watching", "1 while the beacon is seen", float(state.beacon.state == "watching")),
        ("last_cycle_seconds", "How long the last cycle took", health.last_cycle or 0.0),
        ("poll_interval_seconds", "Between two polls, stretched or not", health.poll_interval or 0.0),
        ("month_calls", "Calls to Barbican counted in this month", month.calls),
        ("month_calls_projected", "Calls to Barbican by the end of this month", month.projected_calls),
        ("month_calls_limit", "calls_per_month, 0 for none", float(limit or 0)),
        ("month_cost_projected", "What this month will cost, in budget.currency", month.projected_cost),
    )
    expires = health.credential_expires
    if expires is not None:
        yield from _head("credential_expires_timestamp_seconds", "When the credential expires", "gauge")
        yield f"{_PREFIX}credential_expires_timestamp_seconds {expires:.0f}"
    for name, text, value in gauges:
        yield from _head(name, text, "gauge")
        yield f"{_PREFIX}{name} {value:.15g}"  # a generation has 13 digits
    counters = (
        ("cycles_total", "Cycles, by outcome", "outcome", _cycles(state)),
        ("beacon_events_total", "What the watch over the beacon did", "event", dict(state.beacon.events)),
        ("connections_refused_total", "Connections past the limit, by door", "door", dict(traffic.refused)),
        (
            "unrecorded_total",
            "Requests refused since no audit record could be written, by door",
            "door",
            dict(traffic.unrecorded),
        ),
    )
    for name, text, label, values in counters:
        yield from _head(name, text, "counter")
        for key, count in sorted(values.items()):
            yield f'{_PREFIX}{name}{{{label}="{key}"}} {count}'
    yield from _head("calls_total", "Requests to the cloud, by service and outcome", "counter")
    for (service, outcome), count in sorted(health.calls.items()):
        yield f'{_PREFIX}calls_total{{service="{service}",outcome="{outcome}"}} {count}'
    yield from _head("connections", "Open connections, by door", "gauge")
    for door, count in sorted(traffic.connections.items()):
        yield f'{_PREFIX}connections{{door="{door}"}} {count}'
    yield from _head("requests_total", "Requests, by door and outcome", "counter")
    for (door, outcome), count in sorted(traffic.requests.items()):
        yield f'{_PREFIX}requests_total{{door="{door}",outcome="{outcome}"}} {count}'


def _head(name: str, text: str, kind: str) -> Iterator[str]:
    yield f"# HELP {_PREFIX}{name} {text}"
    yield f"# TYPE {_PREFIX}{name} {kind}"


def _cycles(state: State) -> dict[str, int]:
    health = state.health
    return {"failed": health.cycles_failed, "good": health.cycles - health.cycles_failed}
