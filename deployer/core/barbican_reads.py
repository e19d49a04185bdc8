"""Barbican's own audit, joined with what agents recorded: each payload that it gave, and who had asked. Pure.

The audit is CADF, as keystonemiddleware's filter writes it into a log by oslo.messaging's driver ``log``: one
JSON object in a line, behind whatever the log puts before it. What gave a payload is there with its request
id, and the agent that read it has recorded the same id (docs/audit.md).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from common.untrusted_json import printable
from deployer.core.accesses import MOST

if TYPE_CHECKING:
    from collections.abc import Callable

_PATH: Final = re.compile(r"/v1/secrets/([0-9a-f-]{36})/payload/?(?:\?.*)?")
_LONGEST: Final = 100
_RESPONSE: Final = b"audit.http.response"


class Stranger(NamedTuple):
    """Who was given values by Barbican and is no agent of ours: a Keystone user, and an address."""

    user: str
    user_id: str
    address: str


class BarbicanReads:
    """Counts payloads that Barbican gave from ``since`` until ``until`` (Unix time, s).

    ``recorded`` tells whether an agent has recorded a request id, ``verifies`` whether a user's name is one
    of ``cloud verify``. Agents' records are of ``first`` to ``last``: what was read outside of that time is
    not judged.
    """

    def __init__(
        self,
        since: float,
        until: float,
        first: float,
        last: float,
        *,
        recorded: Callable[[str], bool],
        verifies: Callable[[str], bool],
    ) -> None:
        self._since, self._until, self._first, self._last = since, until, first, last
        self._recorded, self._verifies = recorded, verifies
        self.by_agents = 0
        self.by_verify = 0
        """Of throw-away secrets, by users of ``cloud verify``."""
        self.outside_records = 0
        self.strangers: Counter[Stranger] = Counter()
        self.examples: dict[Stranger, str] = {}
        """The first read of each: when, which version, which request."""
        self.others = 0
        self.unreadable = 0

    def add(self, untrusted_line: bytes) -> None:
        """Count one line of the log; what is no answered request for a payload is left alone."""
        if _RESPONSE not in untrusted_line or b"/payload" not in untrusted_line:
            return
        try:
            event = _event(untrusted_line)
            path = _PATH.fullmatch(str(event["requestPath"]))
            if path is None or event["action"] != "read" or event["outcome"] != "success":
                return
            at = datetime.fromisoformat(str(event["eventTime"])).timestamp()
            initiator = event["initiator"]
            request = str(initiator["request_id"])
            host = initiator.get("host") or {}
            names = (initiator.get("name"), initiator.get("id"), host.get("address"))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
            self.unreadable += 1
            return
        if self._since <= at < self._until:
            who = Stranger(*(printable(str(name or "?"), _LONGEST) for name in names))
            self._count(at, who, path[1], request)

    def _count(self, at: float, who: Stranger, version: str, request: str) -> None:
        if self._recorded(request):
            self.by_agents += 1
        elif self._verifies(who.user):
            self.by_verify += 1
        elif not self._first <= at <= self._last:
            self.outside_records += 1
        elif who in self.strangers or len(self.strangers) < MOST:
            self.strangers[who] += 1
            when = datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
            self.examples.setdefault(who, f"{when}, version {version}, {printable(request, _LONGEST)}")
        else:
            self.others += 1


def _event(untrusted_line: bytes) -> dict[str, Any]:
    """Return the event; a notification has it as its payload.

    Raises:
        ValueError, KeyError, TypeError: it is none.
    """
    found = json.loads(untrusted_line[untrusted_line.index(b"{") :])
    payload = found.get("payload", found)
    if not isinstance(payload, dict):
        raise TypeError
    return payload
