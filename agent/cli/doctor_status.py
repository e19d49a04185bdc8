"""What the agent says of itself, judged for ``vps-secrets doctor``. Pure: the answer was checked before."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from agent.cli import show
from common.finding import FAILURE, OK, WARNING, Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

DAY_S: Final = 86400.0
SOON_DAYS: Final = 14
_STATES: Final = {"ready": OK, "stale": WARNING}


def findings(content: dict[str, Any], now: float) -> Iterator[Finding]:
    """Yield one finding for each thing that the status is about; ``now`` is Unix time (s)."""
    state, names = str(content.get("state")), content.get("secrets") or []
    agent = content.get("agent") or {}
    yield Finding(
        _STATES.get(state, FAILURE),
        "agent",
        f"{state}, version {agent.get('version')}, started {show.span(agent.get('uptime'))} ago"
        + (f": {content['notReady']}" if content.get("notReady") else ""),
        "" if state == "ready" else "vps-secrets status says what failed last",
    )
    if content.get("configurationError"):
        words = f"the last reload was refused: {content['configurationError']}"
        yield Finding(FAILURE, "configuration", words, "fix it, then systemctl reload vps-secrets-agent")
    yield from _secrets(content, names)
    yield from _reading(content)
    yield _credential(content.get("credentialExpires"), now)
    memory = content.get("memory") or {}
    if memory.get("kind"):
        kept = bool(memory.get("kept"))
        words = f"{memory['kind']}, " + ("a restart keeps it" if kept else f"{memory.get('whyNotKept')}")
        yield Finding(
            OK if kept else WARNING, "memory", words, "" if kept else "a restart reads Barbican again"
        )
    beacon = content.get("beacon") or {}
    if beacon.get("state") not in {None, "off"}:
        seen = beacon.get("state") == "watching"
        remedy = "" if seen else str((beacon.get("failure") or {}).get("advice") or "vps-secrets status")
        yield Finding(OK if seen else WARNING, "beacon", str(beacon.get("state")), remedy)
    for warning in content.get("warnings") or ():
        yield Finding(WARNING, "agent", str(warning))
    for door, number in sorted((content.get("denied") or {}).items()):
        remedy = "journalctl -u vps-secrets-agent VPS_SECRETS_OUTCOME=denied"
        yield Finding(WARNING, "refusals", f"{number} at {door}.sock since the start", remedy)


def _secrets(content: dict[str, Any], names: list[dict[str, Any]]) -> Iterator[Finding]:
    stale = [str(one.get("name")) for one in names if one.get("stale")]
    pending = [str(one) for one in content.get("pending") or ()]
    if names:
        yield Finding(OK, "secrets", f"{len(names)}: {', '.join(str(one.get('name')) for one in names)}")
    if stale:
        words = f"{', '.join(stale)}: served in a version that Barbican has not confirmed for long"
        yield Finding(WARNING, "secrets", words, "vps-secrets refresh")
    if pending:
        words = f"{', '.join(pending)}: listed, and no value can be read"
        yield Finding(FAILURE, "secrets", words, "the journal has the reason of each")


def _reading(content: dict[str, Any]) -> Iterator[Finding]:
    failure = content.get("failure")
    if failure:
        words = f"{failure.get('step')} failed: {failure.get('tried')}"
        yield Finding(FAILURE, "reading", words, str(failure.get("advice")))
        return
    age, again = show.span(content.get("confirmedAge")), show.span(content.get("nextAttemptIn"))
    yield Finding(OK, "reading", f"Barbican confirmed everything {age} ago; the next one is in {again}")


def _credential(untrusted: str | None, now: float) -> Finding:
    """Judge by days: 14, 7 and 1 are when the agent warns."""
    if not untrusted:
        return Finding(OK, "credential", "it never ends, or Keystone does not say when")
    try:
        days = (datetime.fromisoformat(untrusted).timestamp() - now) / DAY_S
    except (ValueError, OverflowError):
        return Finding(FAILURE, "credential", f"it ends {untrusted}, which is no date")
    level = OK if days > SOON_DAYS else WARNING if days > 1 else FAILURE
    remedy = "" if level == OK else "docs/operating.md, A new application credential"
    return Finding(level, "credential", f"it ends {untrusted}, in {days:.0f} days", remedy)
