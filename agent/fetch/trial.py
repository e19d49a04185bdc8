"""``vps-secrets-fetch --trial``: one reading as a cycle makes it, for ``vps-secrets setup``, without a value.

Setup tries a new credential and configuration with it, beside the agent that goes on with the former ones.
What is printed is one JSON object: ``failure`` (as in the status document, or null), ``read`` (names),
``unread`` (name to reason) and ``rejected`` (entries that are not this VPS's). The payloads end with this
process.
"""

from __future__ import annotations

import json
import secrets
import time
from typing import TYPE_CHECKING

from agent.core import wire_fields
from agent.core.wire import Request
from agent.fetch.cycle import Cycle

if TYPE_CHECKING:
    from agent.config.model import Config
    from agent.core.wire import Reply


def report(config: Config) -> str:
    """Read Barbican once, knowing nothing, and return the report."""
    request = Request(secrets.token_hex(16), frozenset(), reads_doubles=True, timeout=config.fetch.timeout)
    return json.dumps(_report(Cycle(config, request, time.monotonic()).run()))


def _report(reply: Reply) -> dict[str, object]:
    entries = reply.reading.entries if reply.reading else ()
    read = reply.reading.read if reply.reading else {}
    unread = reply.reading.unread if reply.reading else {}
    return {
        "failure": None if reply.failure is None else wire_fields.failure_out(reply.failure),
        "read": sorted({entry.name for entry in entries if entry.version in read}),
        "unread": {entry.name: unread[entry.version] for entry in entries if entry.version in unread},
        "rejected": list(reply.rejected),
    }
