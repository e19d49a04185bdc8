"""Figures for Prometheus: what the database says at the moment of asking, and requests since the start."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from deployer.api import backup_health, fleet
from deployer.core import lifetimes
from deployer.database import checks, operations, rotations, vpses

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.engine import Connection

    from deployer.config.model import Backup

MONTH_S: Final = 30 * 86400.0
PREFIX: Final = "vps_secrets_deployer"
TWO_KEYS: Final = "two-keys"
NO_KEY: Final = "claimed-without-key"
"""States that the worker writes (deployer/worker/recording.py)."""


class Metrics:
    """The registry; each question sets the gauges anew."""

    def __init__(self, places: Sequence[Backup]) -> None:
        self._places: Final = places
        self._registry: Final = CollectorRegistry(auto_describe=False)
        self.requests: Final = self._counter(
            "api_requests", "Requests that were answered.", ("operation", "status")
        )
        self._vps: Final = self._gauge("vps", "VPSs, by how they look; late is the worst.", ("look",))
        self._month: Final = self._gauge(
            "recent_rotations", "Rotations whose date was in the last 30 days.", ("outcome",)
        )
        self._open: Final = self._gauge("rotations_open", "Rotations that have not ended.")
        self._overdue: Final = self._gauge(
            "rotations_overdue", "Rotations past their date that have not arrived."
        )
        self._worst: Final = self._gauge(
            "rotation_worst_overdue_seconds", "How far past its date the latest of these is."
        )
        self._unattended: Final = self._gauge(
            "secrets_unattended", "Secrets past their date without a rotation: the worker did not pass."
        )
        self._waiting: Final = self._gauge(
            "vps_waiting", "VPSs that wait for a worker for 5 minutes or more: none works."
        )
        self._joining: Final = self._gauge(
            "vps_joining_long", "VPSs that were asked for an hour ago or longer, and never served."
        )
        self._external: Final = self._gauge(
            "secrets_external_overdue", "Secrets past their date that only a person can give."
        )
        self._two_keys: Final = self._gauge(
            "vps_with_two_keys",
            "VPSs with more than one key in their container, or another one than before: they get nothing.",
        )
        self._no_key: Final = self._gauge(
            "vps_claimed_without_key",
            "VPSs whose user was claimed and whose key never came: was it somebody else?",
        )
        self._backup_age: Final = self._gauge(
            "backup_age_seconds", "Age of the last good backup; +Inf where there is none.", ("place",)
        )
        self._backups_failing: Final = self._gauge(
            "backups_failing", "Places whose last backup failed, is overdue, or was never made."
        )

        self._ends: Final = self._gauge(
            "credential_expires_timestamp_seconds",
            "When a credential of the deployer itself ends (Unix time); +Inf: never.",
            ("credential",),
        )
        self._age: Final = self._gauge(
            "credential_age_seconds", "How old a credential of the deployer itself is.", ("credential",)
        )
        self._warned: Final = self._gauge(
            "credential_warning",
            "1 within 14 days of the end, 2 within 7, 3 within a day, 4 after it; -1: not known.",
            ("credential",),
        )

    def exposition(self, c: Connection, now: float) -> str:
        """Return the text that Prometheus reads."""
        for look, count in fleet.counts(c, now).items():
            self._vps.labels(look).set(count)
        month = rotations.figures(c, now, now - MONTH_S)
        for outcome, count in (
            ("in_time", month.in_time),
            ("late", month.late),
            ("given_up", month.given_up),
        ):
            self._month.labels(outcome).set(count)
        late = rotations.overdue(c, now, 10_000)
        self._open.set(month.open)
        self._overdue.set(len(late))
        self._worst.set(max((now - row.due for row in late if row.due is not None), default=0.0))
        self._unattended.set(month.unattended)
        self._waiting.set(operations.waiting(c, now))
        self._joining.set(fleet.joining_long(c, now))
        self._external.set(month.external)
        states = vpses.counts(c)
        self._two_keys.set(states.get(TWO_KEYS, 0))
        self._no_key.set(states.get(NO_KEY, 0))
        places = backup_health.health(c, now, self._places)
        for place in places:
            self._backup_age.labels(place.name).set(place.age_s(now))
        self._backups_failing.set(sum(bool(place.problem) for place in places))
        self._credentials(c, now)
        return generate_latest(self._registry).decode()

    def _credentials(self, c: Connection, now: float) -> None:
        for gauge in (self._ends, self._age, self._warned):
            gauge.clear()
        for row in checks.latest(c):
            life = lifetimes.of_check(row.name, row.at, row.detail, now)
            if life is None:
                continue
            if not life.problem or life.ends is not None:
                self._ends.labels(life.name).set(inf if life.ends is None else life.ends)
            if life.since is not None:
                self._age.labels(life.name).set(max(0.0, now - life.since))
            self._warned.labels(life.name).set(-1 if life.problem else lifetimes.urgency(life, now))

    def _gauge(self, name: str, words: str, labels: tuple[str, ...] = ()) -> Gauge:
        return Gauge(f"{PREFIX}_{name}", words, labels, registry=self._registry)

    def _counter(self, name: str, words: str, labels: tuple[str, ...]) -> Counter:
        return Counter(f"{PREFIX}_{name}", words, labels, registry=self._registry)
