"""The real fetch program and addresses that are written in other words: one place is one place.

And of two places neither is taken for the other: the token goes to the endpoint and to nobody else.
"""

from __future__ import annotations

import http.server
import json
import threading
from typing import TYPE_CHECKING, Self

import pytest

from agent.core.errors import Fault, Step
from lab.testbed.fakes import faults
from lab.testbed.fakes.cloud import VPS, FakeCloud, Handler, Server
from lab.testbed.fakes.fetching import configure

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def cloud() -> Iterator[FakeCloud]:
    """A healthy cloud."""
    with FakeCloud() as made:
        yield made


class Stranger:
    """A listener that should hear nothing; what reaches it is noted."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        heard = self.heard

        class Handler(http.server.BaseHTTPRequestHandler):
            def handle(self) -> None:
                heard.append(repr(self.client_address))

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://localhost:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class FrontHandler(Handler):
    """Both services below one address."""

    server: FrontEnd

    @property
    def service(self) -> str:
        """Which of the two the path is of."""
        return self.server.routed

    def respond(self) -> None:
        """Take the prefix off."""
        front = self.server
        keystone = self.path.startswith(front.keystone + "/")
        front.routed = "keystone" if keystone else "barbican"
        prefix = front.keystone if keystone else front.barbican
        assert self.path.startswith(prefix + "/"), self.path
        self.path = ("/v3" if keystone else "") + self.path.removeprefix(prefix)
        super().respond()


class FrontEnd(Server):
    """One origin for both services, as a cloud has whose endpoints are paths."""

    handler = FrontHandler

    def __init__(self, cloud: FakeCloud, keystone: str, barbican: str) -> None:
        self.keystone, self.barbican, self.routed = keystone, barbican, ""
        super().__init__(cloud, "front", None)

    def __exit__(self, *_: object) -> None:
        self.stop()


REFERENCES = [
    "{stranger}/v1/secrets/{{}}",
    "{stranger}/key-manager/v1/secrets/{{}}",
    "http://user:password@localhost:1/v1/secrets/{{}}",
    "https://barbican.public.example/v1/secrets/{{}}",
    "https://LOCALHOST:{port}/v1/secrets/{{}}/",
    "http://localhost:{port}/elsewhere/v1/secrets/{{}}",
    "/v1/secrets/{{}}",
]


@pytest.mark.parametrize("lists", [False, True])
@pytest.mark.parametrize("ref", REFERENCES)
def test_a_reference_is_read_at_our_endpoint(
    cloud: FakeCloud, tmp_path: Path, ref: str, *, lists: bool
) -> None:
    """Barbican's host_href may be another name of it. Whatever it names, nobody else hears of the token."""
    with Stranger() as stranger:
        port = cloud.servers["barbican"].server_port
        text = ref.format(stranger=stranger.address, port=port)
        made = [cloud.add(f"{VPS}/{name}", ref=text) for name in ("JWT_SECRET", "DATABASE_URL")]
        ran = configure(cloud, tmp_path, f"[fetch]\nlist_metadata = {str(lists).lower()}\n")()
        assert sorted(ran.reading.read) == sorted(secret.version for secret in made)
        assert not ran.reply.notices + ran.reply.rejected
        assert stranger.heard == []


def test_a_reference_of_a_container_that_names_another_host(cloud: FakeCloud, tmp_path: Path) -> None:
    """Neither the container's own reference in its answer nor the configured one is followed."""
    with Stranger() as stranger:
        made = cloud.add(f"{VPS}/JWT_SECRET")
        body = cloud.container_json() | {
            "container_ref": f"{stranger.address}/v1/containers/{cloud.container}"
        }
        cloud.faults["/containers/"] = faults.content(json.dumps(body).encode())
        fetch = configure(cloud, tmp_path)
        text = fetch.config.read_text()
        reference = f"{stranger.address}/v1/containers/{cloud.container}"
        fetch.config.write_text(text.replace(f'"{cloud.container}"', f'"{reference}"'))
        assert list(fetch().reading.read) == [made.version]
        assert stranger.heard == []


@pytest.mark.parametrize("ending", ["", "/", "/v1", "/v1/"])
def test_an_endpoint_that_is_given_is_the_only_one(cloud: FakeCloud, tmp_path: Path, ending: str) -> None:
    """The catalog names another: it hears nothing."""
    with Stranger() as stranger:
        made = cloud.add(f"{VPS}/JWT_SECRET")
        endpoint, cloud.endpoint = cloud.endpoint, stranger.address
        override = endpoint.replace("http://localhost", "HTTP://LocalHost") + ending
        ran = configure(cloud, tmp_path, endpoint_override=override)()
        assert list(ran.reading.read) == [made.version]
        assert stranger.heard == []


WRITTEN = [
    "http://localhost:{}/v3",
    "http://localhost:{}",
    "http://localhost:{}/",
    "HTTP://LOCALHOST:{}/v3//",
]


@pytest.mark.parametrize("written", WRITTEN)
def test_keystone_however_it_is_written(cloud: FakeCloud, tmp_path: Path, written: str) -> None:
    """Every call has the same base, and counts as Keystone's: the login, and when the credential expires."""
    cloud.credential_expires = "2027-01-01T00:00:00.000000"
    fetch = configure(cloud, tmp_path, auth_url=written.format(cloud.servers["keystone"].server_port))
    ran = fetch()
    assert ran.reply.credential_expires == 1798761600.0
    assert cloud.paths("keystone") == [
        "/v3/auth/tokens",
        "/v3/users/u/application_credentials/0123456789abcdef",
    ]
    assert ran.calls == {"keystone": 2, "barbican": 1}
    quiet = fetch(token_state=ran.reply.token_state)
    assert quiet.calls == {"keystone": 0, "barbican": 1}
    assert quiet.reply.credential_expires == 1798761600.0


@pytest.mark.parametrize("written", WRITTEN)
@pytest.mark.parametrize(
    ("status", "fault"), [(401, Fault.DENIED), (403, Fault.TRANSIENT), (404, Fault.DENIED)]
)
def test_whose_refusal_it_is(
    cloud: FakeCloud, tmp_path: Path, written: str, status: int, fault: Fault
) -> None:
    """Keystone's 403 is not Barbican's: nothing is taken away by it."""
    cloud.faults["keystone"] = faults.refused(status)
    ran = configure(cloud, tmp_path, auth_url=written.format(cloud.servers["keystone"].server_port))()
    assert (ran.failure.step, ran.failure.fault, ran.failure.status) == (Step.KEYSTONE, fault, status)
    assert ran.reply.calls["keystone"]["refused"] == 1
    assert ran.calls["barbican"] == 0


@pytest.mark.parametrize(
    ("keystone", "barbican"), [("/identity/v3", "/key-manager"), ("/v3", ""), ("/v3", "/v30")]
)
def test_both_services_at_one_origin(cloud: FakeCloud, tmp_path: Path, keystone: str, barbican: str) -> None:
    """They are told apart by their paths, segment by segment."""
    with FrontEnd(cloud, keystone, barbican) as front:
        made = cloud.add(f"{VPS}/JWT_SECRET")
        cloud.endpoint = front.address + barbican
        ran = configure(cloud, tmp_path, auth_url=front.address + keystone)()
        assert list(ran.reading.read) == [made.version]
        assert ran.calls == {"keystone": 1, "barbican": 3}
        cloud.faults["/containers/"] = faults.refused(403)
        refused = configure(cloud, tmp_path, auth_url=front.address + keystone)()
        assert (refused.failure.step, refused.failure.fault) == (Step.PERMISSION, Fault.DENIED)
        assert refused.reply.calls["barbican"]["refused"] == 1
