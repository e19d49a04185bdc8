"""Who read what, by the agents' own records: counted for a week and the time before it. Pure.

A record is an entry of the journal as ``journalctl --output json`` prints it (docs/operating.md, "The
journal"). What counts is whether the journal says that the agent's unit wrote it: any local user may write
an entry with the same fields.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from deployer.core.schedule import DAY_S

UNIT: Final = "vps-secrets-agent.service"
FETCH_UNIT: Final = "vps-secrets-fetch@"
MOST: Final = 200_000
"""So many different readers and refusals are told apart; what comes after is counted as ``others``."""
REFUSED: Final = frozenset({"denied", "rate-limited"})
"""Outcomes of the audit record (docs/operating.md)."""
_LONGEST: Final = 300
_BROUGHT: Final = re.compile(r"read \S+: version ([0-9a-f-]{36}), request (req-[0-9a-f-]{36})")
"""What fetch writes of each payload that it has read (agent/fetch/payloads.py)."""


class Reader(NamedTuple):
    """Somebody who was served a secret: ``caller`` is a unit, or a uid."""

    host: str
    caller: str
    name: str


class Refusal(NamedTuple):
    """Somebody who was not served, and why."""

    host: str
    caller: str
    reason: str


@dataclass(slots=True)
class Period:
    """What was counted in some time. ``hosts`` by number of records."""

    reads: Counter[Reader] = field(default_factory=Counter)
    refusals: Counter[Refusal] = field(default_factory=Counter)
    hosts: Counter[str] = field(default_factory=Counter)
    others: int = 0


class Accesses:
    """Counts records of ``days`` that end at ``until`` (Unix time, s) apart from those before them."""

    def __init__(self, until: float, days: int) -> None:
        self.days: Final = days
        self.since: Final = until - days * DAY_S
        self._until = until
        self.recent, self.before = Period(), Period()
        self.served_by_day, self.refused_by_day = [0] * days, [0] * days
        self.forged: Counter[str] = Counter()
        """Entries with such fields that another program wrote, by host and program."""
        self.unreadable = 0
        self.first: float | None = None
        """When the oldest record was written."""
        self.last = 0.0
        """When the newest one was."""
        self.served: set[str] = set()
        """Versions that were served in the days."""
        self.brought: set[str] = set()
        """Versions that agents have read, at any time."""
        self.requests: set[str] = set()
        """The ids of the requests by which they did."""
        self.is_full = False
        """Whether there were more versions or requests than are told apart."""

    def add(self, untrusted_line: bytes) -> None:
        """Count one line of the journal; what is no record of an agent is left alone."""
        if b"VPS_SECRETS_OUTCOME" not in untrusted_line:
            if b", request req-" in untrusted_line:
                self._add_reading(untrusted_line)
            return
        try:
            entry = json.loads(untrusted_line)
            at = int(entry["__REALTIME_TIMESTAMP"]) / 1e6
            host = _word(entry.get("_HOSTNAME"))
            outcome = _word(entry["VPS_SECRETS_OUTCOME"])
        except (ValueError, KeyError, TypeError, RecursionError):
            self.unreadable += 1
            return
        if entry.get("_SYSTEMD_UNIT") != UNIT:
            self.forged[f"{host}: {_word(entry.get('_SYSTEMD_UNIT') or entry.get('_COMM'))}"] += 1
        elif at < self._until:
            self._count(entry, at, host, outcome)

    def _add_reading(self, untrusted_line: bytes) -> None:
        """Note by which request fetch has read a version: an entry of its unit, by journald's own word."""
        try:
            entry = json.loads(untrusted_line)
            unit, at = str(entry["_SYSTEMD_UNIT"]), int(entry["__REALTIME_TIMESTAMP"]) / 1e6
            match = _BROUGHT.search(str(entry["MESSAGE"]))
        except (ValueError, KeyError, TypeError, RecursionError):
            self.unreadable += 1
            return
        if match and unit.startswith(FETCH_UNIT):
            self._dated(at)
            self._note(self.brought, match[1])
            self._note(self.requests, match[2])

    def _dated(self, at: float) -> None:
        self.first = at if self.first is None else min(at, self.first)
        self.last = max(at, self.last)

    def _note(self, known: set[str], one: str) -> None:
        if len(known) < MOST:
            known.add(one)
        elif one not in known:
            self.is_full = True

    def _count(self, entry: dict[str, object], at: float, host: str, outcome: str) -> None:
        self._dated(at)
        is_recent = at >= self.since
        period = self.recent if is_recent else self.before
        period.hosts[host] += 1
        caller = _word(entry.get("VPS_SECRETS_UNIT") or f"uid {_word(entry.get('VPS_SECRETS_UID'))}")
        if outcome == "served":
            by_day = self.served_by_day
            if is_recent:
                for version in _words(entry.get("VPS_SECRETS_VERSION")):
                    self._note(self.served, version)
            for name in _words(entry.get("VPS_SECRETS_NAME")):
                _count(period, period.reads, Reader(host, caller, name))
        elif outcome in REFUSED:
            by_day = self.refused_by_day
            _count(period, period.refusals, Refusal(host, caller, _word(entry.get("VPS_SECRETS_REASON"))))
        else:
            return
        if is_recent:
            by_day[int((at - self.since) // DAY_S)] += 1

    @property
    def weeks_before(self) -> float:
        """How many times the period fits into what was recorded before it."""
        return 0.0 if self.first is None else max(0.0, (self.since - self.first) / (self.days * DAY_S))

    def first_readers(self) -> list[tuple[Reader, int]]:
        """Return who read what he never had before, where there is a before of that machine to tell by."""
        new = [
            (reader, number)
            for reader, number in self.recent.reads.items()
            if reader not in self.before.reads and self.before.hosts[reader.host]
        ]
        return sorted(new)

    def silent_hosts(self) -> list[str]:
        """Return the machines that had records before and have none now."""
        return sorted(self.before.hosts.keys() - self.recent.hosts.keys())


def _count(period: Period, counter: Counter[Reader] | Counter[Refusal], key: Reader | Refusal) -> None:
    if key in counter or len(counter) < MOST:
        counter[key] += 1  # type: ignore[index]  # a counter of the key's own kind
    else:
        period.others += 1


def _word(untrusted: object) -> str:
    """Return a field in one line; a journal gives bytes as a list of numbers."""
    text = untrusted if isinstance(untrusted, str) else "?"
    return text[:_LONGEST] if text.isprintable() else ascii(text)[1:-1][:_LONGEST]


def _words(untrusted: object) -> list[str]:
    """Return a field that may come several times."""
    many = untrusted if isinstance(untrusted, list) else [] if untrusted is None else [untrusted]
    return [_word(one) for one in many]
