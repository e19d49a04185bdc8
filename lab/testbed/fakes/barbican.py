"""A Barbican for scale: the worker's calls over real HTTP, in memory, with the login that goes before them.

Why a fake: the real one makes 13 changes a second on a development machine, so that a thousand rotations,
with workers killed meanwhile, would take a quarter of an hour and test mostly the testbed. It answers what
the real ones of both releases were measured to answer; tests/cloud/test_fake_barbican.py makes the same calls
at both and compares. Faults are not its business: put lab/testbed/fakes/proxy.py in front.

It has no request that could return a payload, and keeps none: of a payload only the length is stored. Whoever
asks for one is refused and counted in ``asked_for_payloads``, any other unknown request in ``strange``.
"""

from __future__ import annotations

import contextlib
import http.server
import itertools
import json
import re
import secrets
import threading
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import parse_qs, urlsplit

from lab.testbed.fakes.handler import AnsweringHandler

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable

PAGE: Final = 100
LONG_S: Final = 86400.0
_UUID: Final = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_THING: Final = re.compile(rf"/v1/(secrets|containers)(?:/({_UUID})(?:/([a-z]+))?)?")

_OWN_LOGIN: Final = re.compile("/v3/users/[^/]+/application_credentials/[^/]+")
"""Where Keystone tells the worker how long its own credential lasts."""

Json = dict[str, Any]
Answer = tuple[int, object]


@dataclass
class Secret:
    """One version. ``length`` of its payload, None before it is written."""

    id: str
    name: str
    created: float
    length: int | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    users: tuple[str, ...] = ()


@dataclass
class Container:
    """One container. ``removed`` entries can't be added again: Barbican only marks them as deleted."""

    id: str
    name: str
    created: float
    entries: set[tuple[str, str]] = field(default_factory=set)
    removed: set[tuple[str, str]] = field(default_factory=set)
    users: tuple[str, ...] = ()


@dataclass(frozen=True)
class Loss:
    """An entry that went away, and what its container listed after that: (entry's name, rotation)."""

    container: str
    entry: str
    left: tuple[tuple[str, str], ...]


class FakeBarbican:
    """Owns what is stored, and the server. Use as a context manager.

    ``url`` is Barbican's, without ``/v1``; ``auth_url`` Keystone's, which lets everybody in.
    """

    def __init__(self) -> None:
        self.lock: Final = threading.RLock()
        self.secrets: dict[str, Secret] = {}
        self.containers: dict[str, Container] = {}
        self.calls: Counter[str] = Counter()
        """Answers by method, what they are about, and status, such as ``POST secrets 201``."""
        self.asked_for_payloads: list[str] = []
        self.strange: list[str] = []
        self.losses: list[Loss] = []
        """Every entry that was taken away or whose secret was deleted, in order."""
        self.made: Counter[tuple[str, str]] = Counter()
        """How often a version of a name was marked as ready, by name and rotation."""
        self._server: Final = _Server(self)
        self.url: Final = f"http://localhost:{self._server.server_port}"
        self.auth_url: Final = f"{self.url}/v3"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, method: str, target: str, body: bytes, kind: str) -> Answer:
        """Return status and JSON; None for no body."""
        parts = urlsplit(target)
        match = _THING.fullmatch(parts.path)
        what = "/".join(filter(None, (match[1], match[2] and "ID", match[3]))) if match else parts.path
        with self.lock:
            status, content = self._answer(method, match, what, parse_qs(parts.query), body, kind)
            if status is _NO_PAYLOADS:
                self.asked_for_payloads.append(f"{method} {parts.path}")
            elif status is _UNKNOWN:
                self.strange.append(f"{method} {parts.path}")
            self.calls[f"{method} {what} {status}"] += 1
        return status, content

    def _answer(  # noqa: PLR0917  # the parts of one request
        self,
        method: str,
        match: re.Match[str] | None,
        what: str,
        query: dict[str, list[str]],
        body: bytes,
        kind: str,
    ) -> Answer:
        if match is None:
            return _UNKNOWN, None
        uuid_ = match[2] or ""
        if method == "GET" and what in {"secrets/ID", "secrets/ID/payload"}:
            return _NO_PAYLOADS, None
        lists: dict[str, Callable[[], Answer]] = {
            "GET secrets": lambda: self._page("secrets", self.secrets.values(), query, self._secret),
            "GET containers": lambda: self._page(
                "containers", self.containers.values(), query, self._container
            ),
            "POST secrets": lambda: self._new_secret(json.loads(body)),
            "POST containers": lambda: self._new_container(json.loads(body)),
        }
        if (found := lists.get(f"{method} {what}")) is not None:
            return found()
        if match[1] == "secrets":
            return self._of_secret(method, what, self.secrets.get(uuid_), body, kind)
        return self._of_container(method, what, self.containers.get(uuid_), body)

    def _of_secret(  # noqa: C901, PLR0911  # a table of calls, a line or two each
        self, method: str, what: str, secret: Secret | None, body: bytes, kind: str
    ) -> Answer:
        step = f"{method} {what}"
        if step not in _OF_SECRETS:
            return _UNKNOWN, None
        if secret is None:
            return 404, {"code": 404, "title": "Not Found"}
        match step:
            case "PUT secrets/ID":
                if secret.length is not None:
                    return 409, {"code": 409, "title": "Conflict"}
                if kind != "application/octet-stream" or not body:
                    return 400, {"code": 400, "title": "Bad Request"}
                secret.length = len(body)
                return 204, None
            case "DELETE secrets/ID":
                del self.secrets[secret.id]
                for container in self.containers.values():
                    for entry in [one for one in container.entries if one[1] == secret.id]:
                        self._lose(container, entry)
                return 204, None
            case "PUT secrets/ID/acl":
                secret.users = _users(body)
                return 200, {"acl_ref": f"{self._ref('secrets', secret.id)}/acl"}
            case "GET secrets/ID/metadata":
                return 200, {"metadata": secret.metadata}
            case _:
                fresh = not secret.metadata
                secret.metadata = dict(json.loads(body)["metadata"])
                if fresh:
                    self.made[secret.name, secret.metadata.get("rotation", "")] += 1
                return 201, {"metadata_ref": f"{self._ref('secrets', secret.id)}/metadata"}

    def _of_container(  # noqa: C901, PLR0911  # as above
        self, method: str, what: str, container: Container | None, body: bytes
    ) -> Answer:
        step = f"{method} {what}"
        if step not in _OF_CONTAINERS:
            return _UNKNOWN, None
        if container is None:
            return 404, {"code": 404, "title": "Not Found"}
        match step:
            case "GET containers/ID":
                return 200, self._container(container)
            case "DELETE containers/ID":
                del self.containers[container.id]
                return 204, None
            case "PUT containers/ID/acl":
                container.users = _users(body)
                return 200, {"acl_ref": f"{self._ref('containers', container.id)}/acl"}
        item = json.loads(body)
        entry = (str(item["name"]), str(item["secret_ref"]).rpartition("/")[2])
        if method == "DELETE":
            if entry not in container.entries:
                return 404, {"code": 404, "title": "Not Found"}
            self._lose(container, entry)
            return 204, None
        if entry[1] not in self.secrets:
            return 404, {"code": 404, "title": "Not Found"}
        if entry in container.entries:
            return 409, {"code": 409, "title": "Conflict"}
        if entry in container.removed:
            return 500, {"code": 500, "title": "Internal Server Error"}
        container.entries.add(entry)
        return 201, {"container_ref": self._ref("containers", container.id)}

    def _new_secret(self, item: Json) -> Answer:
        secret = Secret(str(uuid.uuid4()), str(item["name"]), time.time())
        self.secrets[secret.id] = secret
        return 201, {"secret_ref": self._ref("secrets", secret.id)}

    def _new_container(self, item: Json) -> Answer:
        container = Container(str(uuid.uuid4()), str(item["name"]), time.time())
        for one in item["secret_refs"]:
            prefix, _, version = str(one["secret_ref"]).rpartition("/")
            if prefix != f"{self.url}/v1/secrets" or version not in self.secrets:
                return 404, {"code": 404, "title": "Not Found"}
            container.entries.add((str(one["name"]), version))
        self.containers[container.id] = container
        return 201, {"container_ref": self._ref("containers", container.id)}

    def _lose(self, container: Container, entry: tuple[str, str]) -> None:
        container.entries.discard(entry)
        container.removed.add(entry)
        left = tuple(
            (name, self.secrets[version].metadata.get("rotation", ""))
            for name, version in sorted(container.entries)
        )
        self.losses.append(Loss(container.name, entry[0], left))

    def _page(
        self,
        what: str,
        stored: Iterable[Any],
        query: dict[str, list[str]],
        show: Callable[[Any], Json],
    ) -> Answer:
        """Return one page; ``name`` is a pattern of SQL's LIKE."""
        pattern = query.get("name", ["%"])[0]
        like = re.compile("".join(_LIKE.get(mark, re.escape(mark)) for mark in pattern), re.IGNORECASE)
        # stored in the order of their creation
        found = [one for one in stored if like.fullmatch(one.name)]
        first, limit = int(query.get("offset", ["0"])[0]), int(query.get("limit", ["10"])[0])
        page = itertools.islice(found, first, first + min(limit, PAGE))
        return 200, {what: [show(one) for one in page], "total": len(found)}

    def _secret(self, secret: Secret) -> Json:
        shown: Json = {
            "name": secret.name,
            "secret_ref": self._ref("secrets", secret.id),
            "created": _time(secret.created),
            "status": "ACTIVE",
        }
        if secret.length is not None:
            shown["content_types"] = {"default": "application/octet-stream"}
        return shown

    def _container(self, container: Container) -> Json:
        return {
            "name": container.name,
            "type": "generic",
            "created": _time(container.created),
            "container_ref": self._ref("containers", container.id),
            "secret_refs": [
                {"name": name, "secret_ref": self._ref("secrets", version)}
                for name, version in sorted(container.entries)
            ],
            "consumers": [],
        }

    def _ref(self, what: str, uuid_: str) -> str:
        return f"{self.url}/v1/{what}/{uuid_}"

    def log_in(self, url: str) -> Json:
        """Return a token's members, with a catalog that has this Barbican in it."""
        until = datetime.fromtimestamp(time.time() + LONG_S, UTC)
        endpoint = {"id": "e", "interface": "public", "region": "R", "region_id": "R", "url": url}
        return {
            "token": {
                "methods": ["application_credential"],
                "expires_at": until.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
                "issued_at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
                "user": {"id": "u", "name": "u", "domain": {"id": "default", "name": "Default"}},
                "project": {"id": "p", "name": "p", "domain": {"id": "default", "name": "Default"}},
                "roles": [{"id": "r", "name": "creator"}],
                "catalog": [{"id": "s", "name": "barbican", "type": "key-manager", "endpoints": [endpoint]}],
            }
        }


_UNKNOWN: Final = 405
_NO_PAYLOADS: Final = 403
_LIKE: Final = {"%": ".*", "_": "."}
_OF_SECRETS: Final = {
    "PUT secrets/ID",
    "DELETE secrets/ID",
    "PUT secrets/ID/acl",
    "GET secrets/ID/metadata",
    "PUT secrets/ID/metadata",
}
_OF_CONTAINERS: Final = {
    "GET containers/ID",
    "DELETE containers/ID",
    "PUT containers/ID/acl",
    "POST containers/ID/secrets",
    "DELETE containers/ID/secrets",
}


def _users(body: bytes) -> tuple[str, ...]:
    return tuple(json.loads(body)["read"]["users"])


def _time(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")


class _Handler(AnsweringHandler):
    server: _Server
    wbufsize = 65536  # one packet for head and body: else each answer waits for the client's delayed ACK
    disable_nagle_algorithm = True

    @property
    def service(self) -> str:
        """Return ``barbican``."""
        return "barbican"

    @property
    def released(self) -> threading.Event:
        """Nothing hangs here."""
        return threading.Event()

    def respond(self) -> None:
        """Log in, or answer as Barbican."""
        fake = self.server.fake
        with contextlib.suppress(ConnectionError):  # of a client that was killed
            if self.path == "/v3":
                link = {"rel": "self", "href": fake.auth_url}
                version = {"id": "v3.14", "status": "stable", "links": [link]}
                self.answer(200, json.dumps({"version": version}).encode())
            elif self.path == "/v3/auth/tokens" and self.command == "POST":
                token = secrets.token_hex(16)
                self.answer(201, json.dumps(fake.log_in(fake.url)).encode(), X_Subject_Token=token)
            elif not self.headers.get("X-Auth-Token"):
                self.answer(401, b"{}")
            elif self.command == "GET" and _OWN_LOGIN.fullmatch(self.path):
                self.answer(200, b'{"application_credential": {"expires_at": null}}')
            else:
                kind = self.headers.get("Content-Type", "")
                status, content = fake.answer(self.command, self.path, self.body, kind)
                self.answer(status, b"" if content is None else json.dumps(content).encode())
            self.wfile.flush()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, fake: FakeBarbican) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.fake = fake

    def handle_error(self, request: socket.socket | tuple[bytes, socket.socket], _: object) -> None:
        """Stay silent about clients that hang up; they are killed here."""
