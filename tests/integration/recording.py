"""Every request that a deployer makes to Keystone and Barbican, as two proxies saw it, and what it shows.

A proxy passes on what it gets. It notes method, path, status and what is no value; values and passwords that
were sent are kept apart, to be looked for everywhere else.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self

from common import sealed, sealing
from lab.testbed.fakes.proxy import FaultProxy

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from lab.testbed.cloud import Cloud
    from lab.testbed.fakes.proxy import Handler

OCTETS: Final = "application/octet-stream"
UUID: Final = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
PASSWORDS: Final = frozenset({"password", "original_password", "secret"})
OK: Final = 200
MADE: Final = 201
LISTS: Final = frozenset({"/v1/secrets", "/v1/containers"})


@dataclass(frozen=True)
class Request:
    """One request, and its answer's status and reference."""

    service: str
    method: str
    path: str
    status: int
    content: Any = field(repr=False)
    made: str = ""
    """What a POST made: its id."""


class Recorder:
    """Both proxies. ``values`` are the payloads that were sent, ``passwords`` what stood in JSON as one.

    With ``keys``, a VPS's own, what was sealed is among the values both as it was sent and opened. A context
    manager.
    """

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._stack = contextlib.ExitStack()
        self._lock = threading.Lock()
        self.requests: list[Request] = []
        self.values: list[bytes] = []
        self.keys: list[bytes] = []
        self.passwords: set[str] = set()
        self.tokens: set[str] = set()
        self.names: dict[str, str] = {}
        """What Barbican calls each secret and container that a list has shown."""
        self.kill_in_payload = False
        self.killed = 0

    def __enter__(self) -> Self:
        self.barbican = self._stack.enter_context(FaultProxy(self._cloud.testbed.places.barbican_url))
        self.keystone = self._stack.enter_context(FaultProxy(self._cloud.auth_url, "keystone"))
        self.barbican.plan(self)
        self.keystone.plan(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __call__(self, handler: Handler) -> None:
        """Note a request and pass it on; send half of a payload and kill Barbican, where that is wanted."""
        kind = handler.headers.get("Content-Type", "")
        content = None
        with self._lock:
            if kind == OCTETS:
                self.values += [bytes(handler.body), *self._opened(bytes(handler.body))]
                if self.kill_in_payload:
                    self.kill_in_payload = False
                    self._kill(handler)
            elif handler.body:
                content = json.loads(handler.body)
                self.passwords |= set(_passwords(content))
            self.tokens |= {handler.headers[name] for name in ("X-Auth-Token",) if name in handler.headers}
        real = handler.fetch()
        made = ""
        if handler.service == "barbican" and handler.command == "POST" and real.status == MADE:
            answer = json.loads(real.body)
            made = (answer.get("secret_ref") or answer.get("container_ref") or "").rpartition("/")[2]
        path = handler.path.partition("?")[0]
        if handler.command == "GET" and path in LISTS and real.status == OK:
            for one in json.loads(real.body)[path.rpartition("/")[2]]:
                reference = str(one.get("secret_ref") or one.get("container_ref"))
                self.names[reference.rpartition("/")[2]] = str(one.get("name"))
        with self._lock:
            self.requests.append(Request(handler.service, handler.command, path, real.status, content, made))
        handler.give(real)

    def _opened(self, payload: bytes) -> list[bytes]:
        """Return the value in what is sealed; one that can't be opened fails the test that looks for it."""
        if not sealed.is_sealed(payload):
            return []
        header = sealed.take_apart(payload).header
        return [bytes(sealing.unseal(payload, self.keys, header.vps_id, header.name)[0])]

    def _kill(self, handler: Handler) -> None:
        upstream = http.client.HTTPConnection(self.barbican.upstream, timeout=30)
        upstream.putrequest(handler.command, handler.path)
        for name, value in handler.headers.items():
            upstream.putheader(name, value)
        upstream.endheaders(handler.body[: len(handler.body) // 2])
        self._cloud.testbed.kill("barbican")
        upstream.close()
        self.killed += 1

    def ready(self) -> set[str]:
        """Return the versions that were marked as ready to be listed."""
        marked = re.compile(rf"/v1/secrets/({UUID})/metadata")
        return {
            found[1]
            for one in self.requests
            if one.method == "PUT" and one.status == MADE and (found := marked.fullmatch(one.path))
        }


def _passwords(content: Any) -> Iterator[str]:
    if isinstance(content, dict):
        for name, value in content.items():
            if name in PASSWORDS and isinstance(value, str):
                yield value
            yield from _passwords(value)
    elif isinstance(content, list):
        for each in content:
            yield from _passwords(each)


def could_return_a_payload(request: Request) -> bool:
    """Tell whether Barbican could answer a request with a payload (Accept decides for the bare secret)."""
    return (
        request.service == "barbican"
        and request.method not in {"PUT", "DELETE"}
        and bool(re.fullmatch(rf"/v1/+secrets/+{UUID}(/+payload)?/*", request.path))
    )


@dataclass(frozen=True)
class Findings:
    """What was looked at: ACLs that name somebody, entries that were taken off a container."""

    named: int
    removed: int


def examined(requests: list[Request], users: Mapping[str, str], names: Mapping[str, str]) -> Findings:
    """Go through all requests; ``users`` is who may read what of a VPS, ``names`` what lists have shown.

    No payload was asked for; no ACL names another VPS's user, nor a project; no entry went before another one
    of its name was listed. Fails where one of these is not so.
    """
    asked = [one for one in requests if could_return_a_payload(one)]
    assert asked == []
    owner = {thing: name.partition("/")[0] for thing, name in names.items()}
    entries: dict[str, set[tuple[str, str]]] = {}
    named = removed = 0
    for one in requests:
        if one.service != "barbican":
            continue
        _, _, collection, *rest = one.path.split("/")
        thing = rest[0] if rest else ""
        if one.made and not rest:
            owner[one.made] = one.content["name"].partition("/")[0]
            if collection == "containers":
                entries[one.made] = {_entry(ref) for ref in one.content["secret_refs"]}
        if rest[1:] == ["acl"] and one.method == "PUT":
            readers = set(one.content["read"]["users"])
            assert readers <= {users[owner[thing]]}, "another VPS's user in an ACL"
            assert one.content["read"]["project-access"] is False
            named += bool(readers)
        if rest[1:] == ["secrets"] and one.status in {201, 204}:
            name, version = _entry(one.content)
            if one.method == "POST":
                entries.setdefault(thing, set()).add((name, version))
            else:
                entries[thing].discard((name, version))
                assert name in {other for other, _ in entries[thing]}, f"{name}: the old one went first"
                removed += 1
    return Findings(named, removed)


def _entry(ref: Mapping[str, str]) -> tuple[str, str]:
    """Return name, without VPS and ~K, and version of an entry."""
    return ref["name"].rpartition("/")[2].partition("~")[0], ref["secret_ref"].rpartition("/")[2]
