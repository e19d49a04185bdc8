"""The fake Barbican answers the worker's calls as the real ones of both releases do."""

from __future__ import annotations

import json
import secrets
from typing import TYPE_CHECKING, Any

import pytest
from keystoneauth1.identity import v3
from keystoneauth1.session import Session

from common.names import SecretName, Version
from deployer.cloud.barbican import Barbican
from deployer.cloud.errors import CloudError
from deployer.core.model import Entry, Marks
from lab.testbed.fakes.barbican import FakeBarbican

if TYPE_CHECKING:
    from collections.abc import Callable

    from lab.testbed.cloud import Cloud

A, B = SecretName("A_B"), SecretName("AXB")
GONE = Version("00000000-0000-4000-8000-000000000000")
MARKS = Marks("0b0e9a54-8f4e-5f36-9d3f-3f0f6f6a1f11", "random")
NO_MATTER = ("created", "updated", "expiration", "creator_id", "status", "algorithm", "bit_length", "mode")
"""Members that the worker does not read, or that are of the moment."""


class Noting:
    """A session that notes what it was answered; UUIDs and addresses by the order in which they came."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._names: dict[str, str] = {}
        self.answers: list[object] = []

    def request(self, url: str, method: str, **request: Any) -> Any:
        """Make a request."""
        answer = self._session.request(url, method, **request)
        path = url.partition("/v1")[2]
        self.answers.append((method, self._named(path), answer.status_code, self._content(answer.text)))
        return answer

    def _content(self, text: str) -> object:
        try:
            found = json.loads(text)
        except ValueError:
            return text
        if "code" in found:
            return "an error"
        return self._bare(found)

    def _bare(self, found: object) -> object:
        if isinstance(found, dict):
            return {
                key: self._bare(value)
                for key, value in sorted(found.items())
                if key not in {*NO_MATTER, "secret_type", "previous", "next"}
            }
        if isinstance(found, list):
            return sorted((self._bare(one) for one in found), key=str)
        return self._named(found) if isinstance(found, str) else found

    def _named(self, text: str) -> str:
        """Return the text with each UUID as its number."""
        head, slash, rest = text.partition("/v1/")
        parts = (rest if slash else text).split("/")
        for at, part in enumerate(parts):
            if len(part) == len(GONE) and part != GONE:
                parts[at] = self._names.setdefault(part, f"uuid-{len(self._names)}")
        return ("HOST/v1/" if slash and head.startswith("http") else "") + "/".join(parts)


def story(barbican: Barbican, vps_id: str) -> list[str]:
    """Make every call of the worker, in good and in bad order; return what each came to."""
    ends: list[str] = []

    def attempt(step: Callable[[], object]) -> Any:
        try:
            found = step()
        except CloudError as error:
            ends.append(f"HTTP {error.status}")
            return None
        ends.append("went well")
        return found

    def make(name: SecretName) -> Version:
        version = barbican.create_secret(vps_id, name)
        barbican.grant_secret(version, "u1")
        barbican.write_payload(version, b"v")
        barbican.mark(version, MARKS)
        return version

    attempt(lambda: barbican.container_named(vps_id))
    attempt(lambda: barbican.made(vps_id, A))
    first, second, third = make(A), make(A), make(B)
    empty = barbican.create_secret(vps_id, A)
    attempt(lambda: barbican.write_payload(first, b"another"))
    for name in (A, B):  # the name of the one is a pattern for the other
        assert len(barbican.made(vps_id, name)) == (3 if name == A else 1)
    attempt(lambda: barbican.marks(empty))
    attempt(lambda: barbican.marks(first))
    attempt(lambda: barbican.marks(GONE))
    attempt(lambda: barbican.mark(first, Marks("r2", "random", "a")))
    container = barbican.create_container(vps_id, {Entry(A, 0, first), Entry(B, 0, third)})
    attempt(lambda: barbican.grant_container(container, "u1"))
    attempt(lambda: barbican.container(vps_id, container))
    attempt(lambda: barbican.container_named(vps_id))
    for entry in (Entry(A, 0, second), Entry(A, 0, second), Entry(A, 0, GONE)):
        attempt(lambda entry=entry: barbican.add_entry(vps_id, container, entry))  # type: ignore[misc]
    for entry in (Entry(A, 0, first), Entry(A, 0, first), Entry(B, 7, third)):
        attempt(lambda entry=entry: barbican.remove_entry(vps_id, container, entry))  # type: ignore[misc]
    for entry in (Entry(A, 0, first), Entry(A, 5, first)):  # it was removed: 500; under another K it is new
        attempt(lambda entry=entry: barbican.add_entry(vps_id, container, entry))  # type: ignore[misc]
    attempt(lambda: barbican.container(vps_id, container))
    for version in (third, third, second):  # out of its container too
        attempt(lambda version=version: barbican.delete_secret(version))  # type: ignore[misc]
    attempt(lambda: barbican.container(vps_id, container))
    attempt(lambda: barbican.grant_secret(third, ""))
    attempt(lambda: barbican.write_payload(third, b"v"))
    for _ in range(2):
        attempt(lambda: barbican.delete_container(container))
    attempt(lambda: barbican.container(vps_id, container))
    attempt(lambda: barbican.add_entry(vps_id, container, Entry(A, 9, first)))
    attempt(lambda: barbican.grant_container(container, ""))
    attempt(lambda: barbican.container_named(vps_id))
    attempt(lambda: barbican.create_container(vps_id, {Entry(A, 0, GONE)}))
    return ends


def fake_session(fake: FakeBarbican) -> Session:
    """Return a session that has logged in at the fake."""
    login = v3.ApplicationCredential(
        auth_url=fake.auth_url, application_credential_id="id", application_credential_secret="no-secret"
    )
    return Session(auth=login)


def test_fake_and_real_answer_alike(either: Cloud) -> None:
    """The same calls, the same statuses, and the same content wherever the worker reads it."""
    vps_id = f"vps-{secrets.token_hex(4)}"
    real = Noting(either.deployer_session)
    with FakeBarbican() as fake:
        copy = Noting(fake_session(fake))
        ends = story(Barbican(real, either.testbed.places.barbican_url), vps_id)  # type: ignore[arg-type]
        assert story(Barbican(copy, fake.url), vps_id) == ends  # type: ignore[arg-type]
        assert {"went well", "HTTP 404", "HTTP 409", "HTTP 500"} <= set(ends)
        assert (fake.asked_for_payloads, fake.strange) == ([], [])
    for theirs, ours in zip(real.answers, copy.answers, strict=True):
        assert ours == theirs


@pytest.mark.parametrize("path", ["", "/payload", "?name=x"])
def test_whoever_asks_the_fake_for_a_payload_is_counted(path: str) -> None:
    """And gets nothing."""
    with FakeBarbican() as fake:
        session = fake_session(fake)
        version = Barbican(session, fake.url).create_secret("vps-1", A)
        answer = session.get(f"{fake.url}/v1/secrets/{version}{path}", raise_exc=False)
        assert (answer.status_code, answer.content, len(fake.asked_for_payloads)) == (403, b"", 1)
