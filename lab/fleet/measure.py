"""What the testbed's Keystone and Barbican bear, alone and when far too much comes: the model's parameters.

Clients in threads, each with one connection, ask again as soon as they are answered. The mix is that of a
cold cycle: the list, metadata and payload of seven secrets, the list again.
"""

from __future__ import annotations

import http.client
import json
import statistics
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from deployer.cloud.secrets import DEMO_NAMES, generate_value
from lab.fleet.cloud import Capacity

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lab.testbed.cloud import Account, Cloud

TIMEOUT_S: Final = 30.0
OVERLOADS: Final = (1, 4, 16, 64, 256)


@dataclass(frozen=True, slots=True)
class Call:
    """One request; ``body`` and ``headers`` may hold a credential and are in no repr."""

    method: str
    url: str
    headers: dict[str, str] = field(repr=False)
    body: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Borne:
    """What some clients got: answers a second, seconds to an answer, and what else came."""

    clients: int
    rate: float
    p50: float
    p99: float
    outcomes: dict[str, int]


def login(account: Account, auth_url: str) -> Call:
    """Return the request that logs an account in with its application credential."""
    methods = {
        "methods": ["application_credential"],
        "application_credential": {"id": account.credential.id, "secret": account.credential.secret},
    }
    body = json.dumps({"auth": {"identity": methods}}).encode()
    return Call("POST", f"{auth_url}/auth/tokens", {"Content-Type": "application/json"}, body)


def send(connection: http.client.HTTPConnection, call: Call) -> tuple[http.client.HTTPResponse, bytes]:
    """Make one request on a connection."""
    connection.request(call.method, urlsplit(call.url).path, call.body, call.headers)
    answer = connection.getresponse()
    return answer, answer.read()


def connect(url: str) -> http.client.HTTPConnection:
    """Return a connection to the host of an address."""
    parts = urlsplit(url)
    assert parts.hostname is not None  # noqa: S101  # addresses of the testbed's
    return http.client.HTTPConnection(parts.hostname, parts.port, timeout=TIMEOUT_S)


def cold_cycle(cloud: Cloud, vps_id: str = "vps-measure-001") -> list[Call]:
    """Return the requests to Barbican of a cold cycle, with a token, after making the VPS."""
    vps = cloud.vps(vps_id, {name: generate_value(name) for name in DEMO_NAMES})
    answer, _ = send(connect(cloud.auth_url), login(cloud.runtime[vps_id], cloud.auth_url))
    headers = {"X-Auth-Token": answer.headers["X-Subject-Token"], "Accept": "application/json"}
    octets = {**headers, "Accept": "application/octet-stream"}
    read = Call("GET", vps.container_ref, headers)
    _, body = send(connect(vps.container_ref), read)
    references = [entry["secret_ref"] for entry in json.loads(body)["secret_refs"]]
    secrets = [
        call
        for reference in references
        for call in (Call("GET", reference, headers), Call("GET", f"{reference}/payload", octets))
    ]
    return [read, *secrets, read]


def bear(calls: Sequence[Call], clients: int, seconds: float) -> Borne:
    """Ask with so many clients for so long; those that wait at the end are waited for but not counted."""
    end = time.monotonic() + seconds
    spent: list[float] = []
    outcomes = Counter[str]()
    threads = [
        threading.Thread(target=_client, args=(calls, k, end, spent, outcomes)) for k in range(clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ordered = sorted(spent) or [float("nan")]
    return Borne(
        clients,
        len(spent) / seconds,
        statistics.median(ordered),
        ordered[int(0.99 * (len(ordered) - 1))],
        dict(outcomes),
    )


def _client(
    calls: Sequence[Call], offset: int, end: float, spent: list[float], outcomes: Counter[str]
) -> None:
    connection = connect(calls[0].url)
    number = offset
    while (began := time.monotonic()) < end:
        try:
            answer, _ = send(connection, calls[number % len(calls)])
            outcome = str(answer.status)
        except (OSError, http.client.HTTPException) as error:
            outcome = type(error).__name__
            connection.close()
        outcomes[outcome] += 1
        if time.monotonic() < end:
            spent.append(time.monotonic() - began)
        number += 1
    connection.close()


def measure(cloud: Cloud, seconds: float = 5.0) -> dict[str, Any]:
    """Return what both services bear, as JSON for lab/fleet/testbed.json."""
    calls = cold_cycle(cloud)
    account = next(iter(cloud.runtime.values()))
    bear(calls, 4, 1.0)  # what the first requests load is no part of it
    barbican = [bear(calls, clients, seconds) for clients in OVERLOADS]
    keystone = [bear([login(account, cloud.auth_url)], clients, seconds) for clients in (1, 4, 16)]
    return {"barbican": [_row(one) for one in barbican], "keystone": [_row(one) for one in keystone]}


def _row(one: Borne) -> dict[str, Any]:
    return {
        "clients": one.clients,
        "rate": round(one.rate, 1),
        "p50": round(one.p50, 4),
        "p99": round(one.p99, 4),
        "outcomes": one.outcomes,
    }


def capacity(rows: Sequence[dict[str, Any]]) -> Capacity:
    """Return the model of a service: its rate under load, and an answer's time less its share of that."""
    rate = statistics.median(row["rate"] for row in rows if row["clients"] > 1)
    return Capacity(rate=rate, latency=max(0.001, rows[0]["p50"] - 1 / rate))
