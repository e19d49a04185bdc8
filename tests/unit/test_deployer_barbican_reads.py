"""Barbican's audit as the report joins it: what no agent recorded, and what is no read of a value."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from deployer.core.barbican_reads import BarbicanReads, Stranger
from deployer.core.schedule import DAY_S

NOW = 1_795_000_000.0
OURS = "req-00000000-0000-4000-8000-000000000001"
OTHER = "req-00000000-0000-4000-8000-000000000002"
VERSION = "eddf6bb5-9888-4c63-98d0-cb9e770147d1"


def line(request: str, days_ago: float = 1.0, **fields: Any) -> bytes:
    """Return a line of Barbican's log, as the testbed's Barbican writes it."""
    event = {
        "eventTime": datetime.fromtimestamp(NOW - days_ago * DAY_S, UTC).strftime(
            "%Y-%m-%dT%H:%M:%S.%f+0000"
        ),
        "action": "read",
        "outcome": "success",
        "initiator": {"id": "u1", "name": "vps-1", "host": {"address": "192.0.2.7"}, "request_id": request},
        "requestPath": f"/v1/secrets/{VERSION}/payload",
        "reason": {"reasonCode": "200"},
    }
    note = {"event_type": "audit.http.response", "payload": event | fields}
    return b"2026-11-27 INFO oslo.messaging.notification.audit.http.response [-] " + json.dumps(note).encode()


def joined(*lines: bytes, first: float = 0.0) -> BarbicanReads:
    """Count them for a week, with one request that an agent has recorded."""
    made = BarbicanReads(
        NOW - 7 * DAY_S,
        NOW,
        first,
        NOW - 0.1 * DAY_S,
        recorded={OURS}.__contains__,
        verifies=lambda name: name == "verify-1",
    )
    for one in lines:
        made.add(one)
    return made


def test_what_no_agent_recorded_is_found() -> None:
    """With who, from where, when, which version and which request."""
    found = joined(line(OURS), line(OTHER), line(OTHER, 2))
    assert found.by_agents == 1
    who = Stranger("vps-1", "u1", "192.0.2.7")
    assert found.strangers == {who: 2}
    assert VERSION in found.examples[who]
    assert OTHER in found.examples[who]


def test_cloud_verify_and_the_time_without_records_are_apart() -> None:
    """Its reads are of its own objects; before the first record and after the last nothing is known."""
    verify: dict[str, Any] = {"initiator": {"id": "u", "name": "verify-1", "request_id": OTHER}}
    found = joined(line(OTHER, **verify), line(OTHER, 3), line(OTHER, 0.05), first=NOW - 2 * DAY_S)
    assert (found.by_verify, found.outside_records, found.strangers) == (1, 2, {})


@pytest.mark.parametrize(
    "one",
    [
        line(OTHER, 8),
        line(OTHER, -1),
        line(OTHER, outcome="failure"),
        line(OTHER, action="update"),
        line(OTHER, requestPath="/v1/secrets"),
        line(OTHER).replace(b"audit.http.response", b"audit.http.request"),
        b"INFO barbican: GET /v1/secrets/x/payload",
    ],
)
def test_what_is_no_read_of_these_days_is_left_alone(one: bytes) -> None:
    """Other days, refused, written, asked and not answered yet."""
    found = joined(one)
    assert (found.strangers, found.by_agents, found.unreadable) == ({}, 0, 0)


@pytest.mark.parametrize(
    "one",
    [
        b"audit.http.response /payload",
        b"audit.http.response /payload {",
        b'audit.http.response {"payload": 1, "x": "/payload"}',
        b'audit.http.response {"payload": {"a": "/payload"}}',
        line(OTHER, initiator=None),
        line(OTHER, initiator={}),
        line(OTHER, eventTime="yesterday"),
    ],
)
def test_a_line_that_is_no_event_is_counted(one: bytes) -> None:
    """And the next one is read."""
    found = joined(one, line(OURS))
    assert (found.unreadable, found.by_agents) == (1, 1)


def test_names_of_others_are_one_line() -> None:
    """No control character reaches a page."""
    found = joined(line(OTHER, initiator={"id": None, "name": "a\x1b[2J", "request_id": OTHER, "host": None}))
    (who,) = found.strangers
    assert who.user.isprintable()
    assert who.user_id == who.address == "?"
