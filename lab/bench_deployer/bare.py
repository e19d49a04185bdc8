"""A bare client that makes the calls of a worker again, and does nothing else: what Barbican bears.

What the worker sends for one VPS is noted by a proxy, once. Then it is sent again for other VPSs: with their
names, and with the UUIDs that Barbican gives this time; only the payloads are the same bytes.
"""

from __future__ import annotations

import http.client
import re
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lab.testbed.fakes.proxy import Handler

TIMEOUT_S: Final = 120.0
CREATED: Final = 201
FAILED: Final = 400
PAYLOAD: Final = "application/octet-stream"
_UUID: Final = re.compile(rb"/v1/(?:secrets|containers)/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\"")


@dataclass(frozen=True, slots=True)
class Call:
    """One request of the worker's; ``made`` is the UUID of what it made, if it made something."""

    method: str
    path: str
    kind: str
    body: bytes = field(repr=False)
    made: bytes


class Noting:
    """A fault of the proxy's that is none: it notes each request."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def __call__(self, handler: Handler) -> None:
        """Pass a request on, and note it."""
        real = handler.fetch()
        kind = handler.headers.get("Content-Type", "")
        found = _UUID.search(real.body) if handler.command == "POST" and real.status == CREATED else None
        made = found[1] if found else b""
        self.calls.append(Call(handler.command, handler.path, kind, handler.body, made))
        handler.give(real)


@dataclass(frozen=True, slots=True)
class Bare:
    """A client of the Barbican at ``url``. ``calls`` were made for the VPS ``vps_id``."""

    url: str
    token: str = field(repr=False)
    calls: Sequence[Call]
    vps_id: str

    def provision(self, vps_ids: Sequence[str], clients: int) -> float:
        """Make the calls for each of these VPSs, so many at a time; return the seconds.

        Raises:
            RuntimeError: a call was refused.
        """
        left = list(vps_ids)
        refused: list[str] = []

        def work() -> None:
            parts = urlsplit(self.url)
            connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT_S)
            while left:
                try:
                    vps_id = left.pop()
                except IndexError:  # another one was quicker
                    break
                refused.extend(self._one(connection, vps_id))
            connection.close()

        threads = [threading.Thread(target=work) for _ in range(clients)]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        took = time.perf_counter() - began
        if refused:
            raise RuntimeError(f"the bare client was refused: {refused[0]}")
        return took

    def _one(self, connection: http.client.HTTPConnection, vps_id: str) -> list[str]:
        now = {self.vps_id.encode(): vps_id.encode()}
        for call in self.calls:
            path, body = call.path.encode(), call.body
            for former, this in now.items():
                path = path.replace(former, this)
                body = body if call.kind == PAYLOAD else body.replace(former, this)
            headers = {"X-Auth-Token": self.token, "Accept": "application/json"}
            headers |= {"Content-Type": call.kind} if body else {}
            connection.request(call.method, path.decode(), body or None, headers)
            answer = connection.getresponse()
            content = answer.read()
            if answer.status >= FAILED:
                return [f"{call.method} {call.path}: HTTP {answer.status}"]
            if call.made and (found := _UUID.search(content)):
                now[call.made] = found[1]
        return []
