"""The metrics in Prometheus' text format (exposition format 0.0.4): counts only, no secret names."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, NamedTuple

from agent.core import renewal
from agent.serve.host import audit, clock, renewal_file
from agent.serve.sync import acknowledging, call_budget, freshness

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from agent.serve.state import State

_PREFIX: Final = "vps_secrets_"


class _Gauge(NamedTuple):
    """One number; None where there is none at the moment, then the metric is left out."""

    name: str
    help: str
    value: Callable[[State], float | None]


class _Family(NamedTuple):
    """Numbers by the values of some labels."""

    name: str
    help: str
    kind: str
    labels: tuple[str, ...]
    values: Callable[[State], Iterable[tuple[tuple[str, ...], float]]]


_GAUGES: Final = (
    _Gauge(
        "credential_expires_timestamp_seconds",
        "When the credential expires",
        lambda state: state.health.credential_expires,
    ),
    _Gauge(
        "renewal_timestamp_seconds",
        "When this VPS renews its own credential next",
        lambda state: record.next if (record := renewal_file.read(state.config.path)) else None,
    ),
    _Gauge(
        "renewal_problem",
        "1 while the renewal of the credential fails, or found a stranger's",
        lambda state: (
            bool(renewal.warning(record, clock.wall()))
            if (record := renewal_file.read(state.config.path))
            else None
        ),
    ),
    _Gauge(
        "start_timestamp_seconds",
        "When the agent started",
        lambda state: clock.wall() - (clock.boot() - state.started),
    ),
    _Gauge(
        "ready",
        "1 when the application can rely on what is served",
        lambda state: freshness.unready(state) is None,
    ),
    _Gauge(
        "generation",
        "Grows with each new snapshot",
        lambda state: state.store.snapshot.generation if state.store.snapshot else 0,
    ),
    _Gauge("secrets", "Secrets served", lambda state: len(state.store.held())),
    _Gauge(
        "secrets_pending", "Secrets listed but never readable", lambda state: len(freshness.pending(state))
    ),
    _Gauge(
        "secrets_kept",
        "Secrets served in a former version",
        lambda state: len(state.store.snapshot.remarks.kept) if state.store.snapshot else 0,
    ),
    _Gauge(
        "foreign_entries",
        "Entries of the container that are not this VPS's",
        lambda state: len(state.health.rejected),
    ),
    _Gauge("confirmed_age_seconds", "Since Barbican last agreed with what is served", freshness.age),
    _Gauge(
        "next_attempt_seconds",
        "Until Barbican is read again",
        lambda state: freshness.next_attempt_in(state) or 0.0,
    ),
    _Gauge(
        "failures_in_a_row",
        "Cycles that failed since the last good one",
        lambda state: state.health.failures,
    ),
    _Gauge(
        "access_denied",
        "1 while access is taken away",
        lambda state: state.health.denied_since is not None,
    ),
    _Gauge(
        "configuration_error",
        "1 after a refused reload",
        lambda state: state.health.configuration_error is not None,
    ),
    _Gauge(
        "audit_unavailable",
        "1 while no audit record can be written",
        lambda _: audit.trouble() is not None,
    ),
    _Gauge(
        "accounts_unavailable",
        "1 while the system can't tell about a user or group",
        lambda state: freshness.unsure(state) is not None,
    ),
    _Gauge(
        "acknowledged",
        "1 while the container says what is served now",
        lambda state: acknowledging.is_current(state) if state.config.fetch.acknowledge else None,
    ),
    _Gauge("watchers", "Clients that wait for a change", lambda state: state.traffic.watchers),
    _Gauge("tasks", "Tasks of the event loop", lambda _: len(asyncio.all_tasks())),
    _Gauge(
        "beacon_watching",
        "1 while the beacon is seen",
        lambda state: None if state.beacon.state == "off" else state.beacon.state == "watching",
    ),
    _Gauge(
        "last_cycle_seconds",
        "How long the last cycle took",
        lambda state: state.health.last_cycle or 0.0,
    ),
    _Gauge(
        "poll_interval_seconds",
        "Between two polls, stretched or not",
        lambda state: state.health.poll_interval or 0.0,
    ),
    _Gauge(
        "month_calls",
        "Calls to Barbican counted in this month",
        lambda state: call_budget.outlook(state).calls,
    ),
    _Gauge(
        "month_calls_projected",
        "Calls to Barbican by the end of this month",
        lambda state: call_budget.outlook(state).projected_calls,
    ),
    _Gauge(
        "month_calls_limit",
        "calls_per_month, 0 for none",
        lambda state: state.config.budget.calls_per_month or 0,
    ),
    _Gauge(
        "month_cost_projected",
        "What this month will cost, in budget.currency",
        lambda state: call_budget.outlook(state).projected_cost,
    ),
)


def _cycles(state: State) -> Iterator[tuple[tuple[str], int]]:
    health = state.health
    yield ("failed",), health.cycles_failed
    yield ("good",), health.cycles - health.cycles_failed


def _by_one(values: Mapping[str, int]) -> Iterator[tuple[tuple[str], int]]:
    return (((key,), number) for key, number in values.items())


_FAMILIES: Final = (
    _Family("cycles_total", "Cycles, by outcome", "counter", ("outcome",), _cycles),
    _Family(
        "beacon_events_total",
        "What the watch over the beacon did",
        "counter",
        ("event",),
        lambda state: _by_one(state.beacon.events),
    ),
    _Family(
        "connections_refused_total",
        "Connections past the limit, by door",
        "counter",
        ("door",),
        lambda state: _by_one(state.traffic.refused),
    ),
    _Family(
        "unrecorded_total",
        "Requests refused since no audit record could be written, by door",
        "counter",
        ("door",),
        lambda state: _by_one(state.traffic.unrecorded),
    ),
    _Family(
        "first_reads_total",
        "Names that a caller was served for the first time since the start, by door",
        "counter",
        ("door",),
        lambda state: _by_one(state.traffic.first_reads),
    ),
    _Family(
        "calls_total",
        "Requests to the cloud, by service and outcome",
        "counter",
        ("service", "outcome"),
        lambda state: state.health.calls.items(),
    ),
    _Family(
        "connections",
        "Open connections, by door",
        "gauge",
        ("door",),
        lambda state: _by_one(state.traffic.connections),
    ),
    _Family(
        "requests_total",
        "Requests, by door and outcome",
        "counter",
        ("door", "outcome"),
        lambda state: state.traffic.requests.items(),
    ),
)


def exposition(state: State) -> str:
    """Return all metrics."""
    return "\n".join(_lines(state)) + "\n"


def _lines(state: State) -> Iterator[str]:
    for gauge in _GAUGES:
        value = gauge.value(state)
        if value is not None:
            yield from _head(gauge.name, gauge.help, "gauge")
            yield f"{_PREFIX}{gauge.name} {float(value):.15g}"  # a generation has 13 digits
    for family in _FAMILIES:
        yield from _head(family.name, family.help, family.kind)
        for key, value in sorted(family.values(state)):
            labels = ",".join(f'{label}="{part}"' for label, part in zip(family.labels, key, strict=True))
            yield f"{_PREFIX}{family.name}{{{labels}}} {value:.15g}"


def _head(name: str, text: str, kind: str) -> Iterator[str]:
    yield f"# HELP {_PREFIX}{name} {text}"
    yield f"# TYPE {_PREFIX}{name} {kind}"
