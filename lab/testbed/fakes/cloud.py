"""A small Keystone and Barbican over real HTTP, for faults that the real ones can't produce on demand.

Each runs in threads of this process on a loopback port of its own. A fault is a function that answers one
request in its own way; it is set for requests whose path contains a text. Everything secret is a random
canary, for tests that look for it where it must not be.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import http.server
import json
import secrets
import threading
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self
from urllib.parse import parse_qsl, urlsplit

from lab.testbed.fakes import faults
from lab.testbed.fakes.handler import AnsweringHandler

if TYPE_CHECKING:
    import ssl

    from lab.testbed.fakes.faults import Fault

VPS = "vps-prod-001"
CREATED = "2026-11-01T00:00:00.000000"


@dataclass
class FakeSecret:
    """One version. ``payload`` None: not yet written."""

    name: str
    payload: bytes | None
    version: str = field(default_factory=lambda: str(uuid.uuid4()))
    expiration: str | None = None


class Handler(AnsweringHandler):
    """One connection to one of the two services."""

    server: Server

    @property
    def service(self) -> str:
        """Which of the two it is."""
        return self.server.service

    @property
    def released(self) -> threading.Event:
        """Set when whatever hangs shall go on."""
        return self.server.cloud.released

    @property
    def clock_ahead(self) -> float:
        """How far the cloud's clock is ahead (s)."""
        return self.server.cloud.clock_ahead

    def respond(self) -> None:
        """Answer, or do what the fault says."""
        cloud = self.server.cloud
        cloud.requests.append((self.service, self.command, self.path))
        for part, fault in cloud.faults.items():
            if part in f"{self.service} {self.path}":
                fault(self)
                return
        if self.service == "keystone":
            cloud.keystone(self)
        else:
            cloud.barbican(self)


class Server(http.server.ThreadingHTTPServer):
    """One of the two services."""

    daemon_threads = True
    handler: type[Handler] = Handler

    def __init__(self, cloud: FakeCloud, service: str, context: ssl.SSLContext | None) -> None:
        super().__init__((cloud.host, 0), self.handler)
        self.cloud, self.service = cloud, service
        self.address = f"{'https' if context else 'http'}://localhost:{self.server_port}"
        if context:
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def handle_error(self, *_: object) -> None:
        """Stay silent: clients that hang up are what is tested."""

    def stop(self) -> None:
        """Close the port; connections are then refused."""
        self.shutdown()
        self.server_close()
        self._thread.join()


class FakeCloud:
    """Both services at ``host``, one account, one container. Use as a context manager."""

    def __init__(self, context: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        self.host = host
        self.credential = secrets.token_hex(16)
        self.token = secrets.token_hex(16)
        self.container = str(uuid.uuid4())
        self.requests: list[tuple[str, str, str]] = []
        self.faults: dict[str, Fault] = {}
        self.clock_ahead = 0.0
        self.credential_expires: str | None = None
        """As Keystone would tell it of the application credential; None: it is not one."""
        self.token_members: dict[str, object] = {}
        """What a token has besides, such as another catalog."""
        self.released = threading.Event()
        """Set at the end: whatever hangs goes on."""
        self.entries: list[dict[str, object]] = []
        self.consumers: list[dict[str, object]] = []
        self.secrets: dict[str, FakeSecret] = {}
        self.servers = {
            "keystone": Server(self, "keystone", context),
            "barbican": Server(self, "barbican", context),
        }
        self.endpoint = self.servers["barbican"].address

    @property
    def auth_url(self) -> str:
        """Where Keystone is."""
        return self.servers["keystone"].address + "/v3"

    @property
    def canaries(self) -> list[bytes]:
        """Everything that may be seen nowhere but in its place."""
        payloads = [secret.payload for secret in self.secrets.values() if secret.payload]
        return [self.credential.encode(), self.token.encode(), *payloads]

    def add(self, name: str, **fields: object) -> FakeSecret:
        """Add a secret and its entry; ``own_name``, ``payload``, ``expiration``, ``ref`` where given."""
        payload = fields.get("payload", secrets.token_hex(16).encode())
        assert payload is None or isinstance(payload, bytes)
        expiration = fields.get("expiration")
        secret = FakeSecret(
            str(fields.get("own_name", name)), payload, expiration=str(expiration) if expiration else None
        )
        self.secrets[secret.version] = secret
        ref = fields.get("ref", f"{self.endpoint}/v1/secrets/{{}}")
        self.entries.append({"name": name, "secret_ref": str(ref).format(secret.version)})
        return secret

    def paths(self, service: str) -> list[str]:
        """Return the paths of the requests that a service got."""
        return [path for where, _, path in self.requests if where == service]

    def keystone(self, handler: Handler) -> None:
        """Log in, by whichever method, with the one credential; tell when it expires."""
        if handler.command == "GET":
            credential = {"id": handler.path.rpartition("/")[2], "expires_at": self.credential_expires}
            handler.answer(200, json.dumps({"application_credential": credential}).encode())
            return
        asked = json.loads(handler.body)["auth"]["identity"]
        method = asked[asked["methods"][0]]
        given = method.get("secret") or method.get("user", {}).get("password")
        if given != self.credential:
            faults.refused(401)(handler)
            return
        expires = dt.datetime.now(dt.UTC) + dt.timedelta(hours=1, seconds=self.clock_ahead)
        endpoint = {"interface": "public", "region": "RegionOne", "region_id": "RegionOne"}
        token = {
            "methods": asked["methods"],
            "expires_at": expires.strftime("%Y-%m-%dT%H:%M:%S.000000Z"),
            "issued_at": "2026-11-01T00:00:00.000000Z",
            "user": {"id": "u", "name": "u", "domain": {"id": "default", "name": "Default"}},
            "catalog": [
                {
                    "type": "key-manager",
                    "name": "barbican",
                    "endpoints": [endpoint | {"id": "e", "url": self.endpoint}],
                }
            ],
        }
        if self.credential_expires is not None:
            token["application_credential"] = {"id": method["id"], "name": "n", "restricted": True}
        body = json.dumps({"token": token | self.token_members}).encode()
        handler.answer(201, body, X_Subject_Token=self.token)

    def barbican(self, handler: Handler) -> None:
        """Answer the container, the list, metadata and payload."""
        if handler.headers.get("X-Auth-Token") != self.token:
            faults.unauthorized(handler)
        elif handler.path == f"/v1/containers/{self.container}":
            handler.answer(200, json.dumps(self.container_json()).encode())
        elif handler.path == f"/v1/containers/{self.container}/consumers":
            self._consumer(handler)
        elif handler.path.startswith("/v1/secrets?"):
            query = dict(parse_qsl(urlsplit(handler.path).query))
            assert (query["acl_only"], query["sort"], query["limit"]) == ("true", "created:desc", "100")
            handler.answer(200, json.dumps(self.list_json(int(query["offset"]))).encode())
        else:
            self._secret(handler)

    def container_json(self) -> dict[str, object]:
        """Return the container as Barbican would."""
        ref = f"{self.endpoint}/v1/containers/{self.container}"
        return {
            "name": VPS,
            "type": "generic",
            "status": "ACTIVE",
            "container_ref": ref,
            "secret_refs": self.entries,
            "consumers": self.consumers,
        }

    def _consumer(self, handler: Handler) -> None:
        """Register or delete one; it may be registered twice."""
        consumer = json.loads(handler.body)
        if handler.command == "DELETE" and consumer not in self.consumers:
            faults.refused(404)(handler)
            return
        self.consumers = [other for other in self.consumers if other != consumer]
        if handler.command == "POST":
            self.consumers.append(consumer)
        handler.answer(200, json.dumps(self.container_json()).encode())

    def _secret(self, handler: Handler) -> None:
        parts = handler.path.split("/")
        secret = self.secrets.get(parts[3]) if len(parts) > 3 else None  # /v1/secrets/ID
        wants_payload = parts[-1] == "payload"
        if secret is None or (wants_payload and secret.payload is None):
            faults.refused(404)(handler)
        elif wants_payload:
            handler.answer(200, secret.payload or b"", "application/octet-stream")
        else:
            handler.answer(200, json.dumps(self.metadata(secret)).encode())

    def metadata(self, secret: FakeSecret) -> dict[str, object]:
        """Return what Barbican tells of a secret."""
        return {
            "name": secret.name,
            "created": CREATED,
            "updated": CREATED,
            "expiration": secret.expiration,
            "status": "ACTIVE",
            "secret_type": "opaque",
            "content_types": {"default": "application/octet-stream"} if secret.payload is not None else None,
            "secret_ref": f"{self.endpoint}/v1/secrets/{secret.version}",
        }

    def list_json(self, offset: int) -> dict[str, object]:
        """Return a page of a hundred secrets, newest first."""
        newest = [self.metadata(secret) for secret in reversed(self.secrets.values())]
        return {"secrets": newest[offset : offset + 100], "total": len(newest)}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        for server in self.servers.values():
            with contextlib.suppress(OSError):
                server.stop()
