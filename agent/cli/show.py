"""Answers of the agent as text for people: aligned, ages in words. They were checked by answer.py before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agent.cli.answer import clean
from common import durations

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["clean", "failure", "secrets", "span", "status", "table"]


def span(seconds: object) -> str:
    """Return a duration in words, or a dash where there is none."""
    if not isinstance(seconds, (int, float)) or isinstance(seconds, bool):
        return "-"
    return durations.span(seconds)


def table(rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """Yield rows with their columns aligned."""
    all_rows = [tuple(map(clean, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*all_rows, strict=True)]
    for row in all_rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def secrets(listed: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Yield one line per secret: no value is in what the agent tells."""
    rows = [("NAME", "VERSION", "SIZE", "CONFIRMED", "")]
    for secret in listed:
        remarks = [word for word in ("stale", "previous") if secret.get(word)]
        rows.append(
            (
                str(secret.get("name")),
                str(secret.get("version")),
                f"{secret.get('size')} B",
                f"{span(secret.get('age'))} ago",
                ", ".join(remarks),
            )
        )
    return table(rows)


def failure(found: dict[str, Any]) -> Iterator[str]:
    """Yield what failed, and what to do."""
    status = f" (HTTP {found['status']})" if found.get("status") else ""
    yield f"failed step:  {clean(found.get('step'))}{status}"
    yield f"tried:        {clean(found.get('tried'))}"
    yield f"what to do:   {clean(found.get('advice'))}"


def _memory(memory: dict[str, Any]) -> str:
    if not memory.get("kind"):
        return "empty"
    keeps = "a restart keeps it" if memory.get("kept") else f"a restart loses it: {memory.get('whyNotKept')}"
    return f"{memory.get('kind')}, {memory.get('bytes')} B; {keeps}"


def _calls(budget: dict[str, Any]) -> str:
    """Return the line about the month's calls to Barbican."""
    limit = f" of {budget['callsPerMonth']}" if budget.get("callsPerMonth") else ""
    since = "" if budget.get("wholeMonth") else f", counted since {budget.get('countedSince')}"
    cost = f"{budget.get('currency')} {budget.get('projectedCost') or 0.0:.2f}"
    polls = budget.get("stretched") or f"a poll every {span(budget.get('pollInterval'))}"
    used = f"{budget.get('calls')}{limit} this month{since}"
    return f"{used}; about {budget.get('projectedCalls')} and {cost} by its end; {polls}"


def _beacon(beacon: dict[str, Any]) -> str:
    """Return how the watch over the beacon goes."""
    durations = [f"{beacon.get('state')} {beacon.get('url')}"]
    if beacon.get("lastChange") is not None:
        durations.append(f"changed {span(beacon['lastChange'])} ago")
    if beacon.get("pollIn") is not None:
        durations.append(f"reading because of it in {span(beacon['pollIn'])}")
    failure = beacon.get("failure")
    if failure:
        status = f" (HTTP {failure['status']})" if failure.get("status") else ""
        again = span(beacon.get("nextLookIn"))
        durations.append(
            f"{failure.get('step')} failed{status}: {failure.get('advice')}; next look in {again}"
        )
    return "; ".join(durations)


def _acknowledged(acknowledged: dict[str, Any] | None) -> str:
    """Return which generation the container says is served, and since when."""
    if acknowledged is None:
        return "off"
    if acknowledged.get("current"):
        return f"generation {acknowledged.get('generation')}, {acknowledged.get('at')}"
    last = acknowledged.get("generation")
    return f"not what is served now; last generation {last}" if last else "nothing yet"


def _refused(denied: dict[str, Any]) -> str:
    if not denied:
        return "nobody"
    doors = ", ".join(f"{count} at {door}.sock" for door, count in sorted(denied.items()))
    return f"{doors}: journalctl -u vps-secrets-agent VPS_SECRETS_OUTCOME=denied"


def _credential(content: dict[str, Any], cycles: dict[str, Any]) -> str:
    """Return when the credential expires: nobody knows before a reading has asked Keystone."""
    if content.get("credentialExpires"):
        return f"expires {content['credentialExpires']}{_renewal(content.get('renewal'))}"
    if (cycles.get("total") or 0) <= (cycles.get("failed") or 0):
        return "when it expires is not known before the first reading"
    return "expires never, or Keystone does not say"


def _renewal(content: dict[str, Any] | None) -> str:
    """Return when it is renewed, where it renews itself; what went wrong is among the warnings."""
    if not content:
        return ""
    if content.get("problem"):
        return ", its renewal needs somebody: see the warnings"
    return f", renewed by itself at {content['next']}" if content.get("next") else ""


def status(content: dict[str, Any]) -> Iterator[str]:
    """Yield the status document."""
    agent, cycles = content.get("agent") or {}, content.get("cycles") or {}
    memory = content.get("memory") or {}
    yield f"{clean(content.get('vpsId'))}: {clean(content.get('state'))}"
    age, attempt = content.get("confirmedAge"), span(content.get("nextAttemptIn"))
    confirmed = "not yet" if age is None else f"{span(age)} ago"
    total, failed, in_a_row = (cycles.get(key) for key in ("total", "failed", "inARow"))
    facts = (
        ("agent", f"version {agent.get('version')}, pid {agent.get('pid')}, up {span(agent.get('uptime'))}"),
        ("generation", str(content.get("generation") or "none yet")),
        (
            "confirmed",
            f"{confirmed}; next reading in {attempt}",
        ),
        (
            "cycles",
            f"{total}, of them {failed} failed, {in_a_row} in a row",
        ),
        ("calls", _calls(content.get("budget") or {})),
        ("beacon", _beacon(content.get("beacon") or {"state": "none", "url": ""})),
        ("acknowledged", _acknowledged(content.get("acknowledged"))),
        ("credential", _credential(content, cycles)),
        ("memory", _memory(memory)),
        ("watchers", str(content.get("watchers"))),
        ("refused", _refused(content.get("denied") or {})),
    )
    yield from table((f"  {key}", text) for key, text in facts)
    if content.get("notReady") and not content.get("failure"):
        yield ""
        yield f"not ready:    {clean(content['notReady'])}"
    if content.get("failure"):
        yield ""
        yield from failure(content["failure"])
        if content.get("secrets"):
            yield "meanwhile:    what was read before is served on"
    if content.get("droppedIn") is not None:
        drop = span(content["droppedIn"])
        yield f"access:       taken away; the values are dropped in {drop} unless it is given back"
    for title, key in (
        ("grants", "grants"),
        ("listed, but not readable yet", "pending"),
        ("not this VPS's, refused", "foreign"),
        ("warnings", "warnings"),
    ):
        if content.get(key):
            yield ""
            yield f"{title}:"
            yield from (f"  {clean(line)}" for line in content[key])
    if content.get("configurationError"):
        yield ""
        yield from configuration(content)
    if content.get("secrets"):
        yield ""
        yield from secrets(content["secrets"])


def configuration(content: dict[str, Any]) -> Iterator[str]:
    """Yield whether the configuration file is in force, or why the last reload was refused."""
    if not content.get("configurationError"):
        yield "the configuration file is in force"
        return
    yield "the last reload was refused:"
    yield from (f"  {clean(line)}" for line in str(content["configurationError"]).splitlines())
