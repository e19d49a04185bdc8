"""deployer/cloud/barbican.py on the real Barbican of both releases; a proxy notes every request."""

from __future__ import annotations

import logging
import re
import secrets
import time
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from common.names import SecretName, Version
from deployer.cloud.accounts import DEPLOYER_RULES, ApplicationCredential
from deployer.cloud.barbican import PAGE, Barbican
from deployer.cloud.errors import CloudError
from deployer.core.model import Entry, Made, Marks
from lab.testbed.fakes.proxy import FaultProxy, Handler, Real, half, reset

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lab.testbed.cloud import Cloud

A, B = SecretName("A_B"), SecretName("B")
MARKS = Marks("0b0e9a54-8f4e-5f36-9d3f-3f0f6f6a1f11", "random")
COULD_RETURN_A_PAYLOAD = re.compile(r"GET /v1/secrets/[^/?]+(/payload)?/?(\?.*)?")


@pytest.fixture(scope="module")
def proxy(either: Cloud) -> Iterator[FaultProxy]:
    """In front of Barbican; its address is not the one that references have."""
    with FaultProxy(either.testbed.places.barbican_url) as made:
        yield made
        payloads = [line for line in made.seen if COULD_RETURN_A_PAYLOAD.fullmatch(line)]
        assert payloads == []
        assert len(made.seen) > 50  # it looked at something


@pytest.fixture
def barbican(either: Cloud, proxy: FaultProxy) -> Barbican:
    """As the worker has it: with the application credential and its access rules."""
    return Barbican(either.deployment._session, proxy.url)


@pytest.fixture
def vps_id() -> str:
    """A VPS of this test's own."""
    return f"vps-{secrets.token_hex(4)}"


def one(barbican: Barbican, vps_id: str, name: SecretName, value: bytes = b"v") -> Version:
    """Make one whole version."""
    version = barbican.create_secret(vps_id, name)
    barbican.grant_secret(version, "")
    barbican.write_payload(version, value)
    barbican.mark(version, MARKS)
    return version


def test_the_life_of_a_vps(barbican: Barbican, either: Cloud, vps_id: str) -> None:
    """Every method once, and what Barbican says of it; its user reads every byte."""
    user = either.accounts.runtime(vps_id)
    assert barbican.container_named(vps_id) is None
    assert barbican.made(vps_id, A) == frozenset()
    began = time.time()
    value = bytearray(b" \n\0" + bytes(range(256)))
    version = barbican.create_secret(vps_id, A, time.time() + 3600)
    barbican.grant_secret(version, user.id)
    barbican.write_payload(version, value)
    assert barbican.marks(version) is None
    slotted = Marks(MARKS.rotation, "postgresql", "app_a")
    for marks in (MARKS, slotted, slotted):
        barbican.mark(version, marks)
        assert barbican.marks(version) == marks
    (made,) = barbican.made(vps_id, A)
    assert made == Made(A, version, made.created, None)
    assert abs(made.created - began) < 600
    entries = frozenset({Entry(A, 0, version)})
    container = barbican.create_container(vps_id, entries)
    barbican.grant_container(container, user.id)
    assert barbican.container_named(vps_id) == container
    assert barbican.container(vps_id, container) == (entries, frozenset())
    agent = either.session_of(user)
    url = f"{either.testbed.places.barbican_url}/v1/secrets/{version}/payload"
    read = agent.get(url, headers={"Accept": "application/octet-stream"}, log=False)
    assert (read.content == value) is True
    barbican.grant_secret(version, "")
    assert agent.get(url, raise_exc=False, log=False).status_code == 403
    barbican.remove_entry(vps_id, container, Entry(A, 0, version))
    barbican.add_entry(vps_id, container, Entry(A, 1, version))
    assert barbican.container(vps_id, container).entries == {Entry(A, 1, version)}
    barbican.delete_secret(version)
    assert barbican.container(vps_id, container).entries == frozenset()
    barbican.delete_container(container)
    assert barbican.container_named(vps_id) is None


def test_a_worker_that_has_just_started_makes_a_container(
    either: Cloud, proxy: FaultProxy, barbican: Barbican, vps_id: str
) -> None:
    """Barbican takes references as it writes them only, and this one has not seen any yet."""
    entry = Entry(A, 0, one(barbican, vps_id, A))
    started = Barbican(either.deployment._session, proxy.url)
    container = started.create_container(vps_id, {entry})
    assert started.container(vps_id, container).entries == {entry}


def test_what_is_done_may_be_done_again(barbican: Barbican, vps_id: str) -> None:
    """There already, gone already; but a second payload is refused: whose the first is can't be known."""
    first, second = one(barbican, vps_id, A), one(barbican, vps_id, A)
    container = barbican.create_container(vps_id, {Entry(A, 0, first)})
    for _ in range(2):
        barbican.add_entry(vps_id, container, Entry(A, 1, second))
        barbican.grant_container(container, "")
        barbican.grant_secret(first, "")
    assert barbican.container(vps_id, container).entries == {Entry(A, 0, first), Entry(A, 1, second)}
    with pytest.raises(CloudError, match=r"write the payload of .*HTTP 409") as caught:
        barbican.write_payload(first, b"another")
    assert (caught.value.status, caught.value.retriable) == (409, False)
    for _ in range(2):
        barbican.remove_entry(vps_id, container, Entry(A, 0, first))
        barbican.delete_secret(first)
    for _ in range(2):
        barbican.delete_container(container)
        barbican.delete_secret(second)
        barbican.delete_consumer(vps_id, container, "urn:x")
        barbican.remove_entry(vps_id, container, Entry(A, 0, first))
    for ask in (lambda: barbican.container(vps_id, container), lambda: barbican.marks(first)):
        with pytest.raises(CloudError, match="it is not there") as caught:
            ask()
        assert caught.value.gone
        assert not caught.value.retriable


def test_consumers_are_seen_and_deleted(barbican: Barbican, either: Cloud, vps_id: str) -> None:
    """Those that the VPS registers; by their URL, under whatever name."""
    user = either.accounts.runtime(vps_id)
    container = barbican.create_container(vps_id, ())
    barbican.grant_container(container, user.id)
    agent = either.session_of(user)
    url = f"{either.testbed.places.barbican_url}/v1/containers/{container}/consumers"
    for name, registered in (("agent", "urn:1"), ("other", "urn:1"), ("agent", "urn:2")):
        assert agent.post(url, json={"name": name, "URL": registered}, log=False).status_code == 200
    assert barbican.container(vps_id, container).consumers == {"urn:1", "urn:2"}
    for _ in range(2):
        barbican.delete_consumer(vps_id, container, "urn:1")
    assert barbican.container(vps_id, container).consumers == {"urn:2"}


def test_names_are_matched_exactly_and_over_pages(barbican: Barbican, vps_id: str) -> None:
    """Barbican matches by LIKE and gives a hundred at a time."""
    wanted = {barbican.create_secret(vps_id, A) for _ in range(PAGE + 3)}
    barbican.create_secret(vps_id, SecretName("AxB"))
    assert {made.version for made in barbican.made(vps_id, A)} == wanted
    barbican.create_container(vps_id.replace("-", "_", 1), ())
    barbican.create_container(vps_id, ())
    assert barbican.container_named(vps_id.replace("-", "_", 1)) != barbican.container_named(vps_id)


def test_two_containers_of_one_name_are_refused(barbican: Barbican, vps_id: str) -> None:
    """Which of them an agent reads can't be known from here."""
    barbican.create_container(vps_id, ())
    barbican.create_container(vps_id, ())
    with pytest.raises(CloudError, match="there are 2 containers of this name") as caught:
        barbican.container_named(vps_id)
    assert not caught.value.retriable


def test_what_is_not_this_vps_s_is_refused(barbican: Barbican, vps_id: str) -> None:
    """Another VPS's container, and an entry with another VPS's prefix."""
    other = f"{vps_id}-2"
    version = one(barbican, vps_id, A)
    container = barbican.create_container(vps_id, {Entry(A, 0, version)})
    with pytest.raises(CloudError, match=f"the container's name is not {other}") as caught:
        barbican.container(other, container)
    assert not caught.value.retriable
    barbican.add_entry(other, container, Entry(B, 0, version))
    with pytest.raises(CloudError, match=f"the entry {other}/B is not one of {vps_id}") as caught:
        barbican.container(vps_id, container)
    assert not caught.value.retriable


def test_a_reference_to_elsewhere_is_refused(barbican: Barbican, proxy: FaultProxy, vps_id: str) -> None:
    """An entry whose secret is at another address than its container."""
    version = one(barbican, vps_id, A)
    container = barbican.create_container(vps_id, {Entry(A, 0, version)})

    def foreign(handler: Handler) -> None:
        real = handler.fetch()
        body = re.sub(rb"http://[^/]*(/v1/secrets/)", rb"https://evil.example\1", real.body)
        handler.give(Real(real.status, real.headers, body))

    with (
        proxy.faulty(foreign, f"GET /v1/containers/{container}"),
        pytest.raises(CloudError, match="refers to another place than its container") as caught,
    ):
        barbican.container(vps_id, container)
    assert not caught.value.retriable


def changed(change: Callable[[Real], Real]) -> Callable[[Handler], None]:
    """Answer with something made of the real answer."""
    return lambda handler: handler.give(change(handler.fetch()))


PAGES = Real(200, (("Content-Type", "text/html"),), b"<html>sign in</html>")
FAULTS: dict[str, tuple[Callable[[Handler], None], str, bool]] = {
    "a redirect": (
        changed(lambda _: Real(302, (("Location", "http://localhost:1/v1"),), b"")),
        "HTTP 302",
        False,
    ),
    "a gateway's page": (changed(lambda _: PAGES), "not as documented: the answer is not JSON", True),
    "an error of the service": (
        changed(lambda _: Real(500, (), b"canary")),
        "HTTP 500: the service failed",
        True,
    ),
    "another success": (changed(lambda real: Real(202, real.headers, real.body)), "HTTP 202", False),
    "a bomb": (
        changed(lambda real: Real(200, (*real.headers, ("Content-Encoding", "gzip")), real.body)),
        "compressed",
        True,
    ),
    "a long answer": (changed(lambda real: Real(200, real.headers, b" " * 5_000_000)), "longer than", True),
    "half an answer": (half, "the connection broke off", True),
    "a reset": (reset, "the connection (broke off|failed)", True),
    "a refusal": (
        changed(lambda _: Real(401, (), b"canary")),
        "HTTP 401: the login is not valid any more",
        False,
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_answer_that_is_none(barbican: Barbican, proxy: FaultProxy, vps_id: str, fault: str) -> None:
    """Each is told in words of ours, with the step; where a token would go elsewhere, it does not."""
    answer, words, retriable = FAULTS[fault]
    with (
        proxy.faulty(answer, "GET /v1/containers"),
        pytest.raises(CloudError, match=f"look for the container of {vps_id}: .*{words}") as caught,
    ):
        barbican.container_named(vps_id)
    assert caught.value.retriable is retriable
    assert caught.value.__context__ is None
    assert "canary" not in repr(caught.value)


def test_a_service_that_is_not_there(either: Cloud, vps_id: str) -> None:
    """Nobody listens, and a name that does not resolve."""
    session = either.deployment._session
    for url, words in (
        ("http://127.0.0.1:1", r"the connection failed \(ECONNREFUSED\)"),
        ("http://nobody.invalid", "the name of the service does not resolve"),
    ):
        with pytest.raises(CloudError, match=words) as caught:
            Barbican(session, url).container_named(vps_id)
        assert (caught.value.status, caught.value.retriable) == (None, True)


def test_a_login_that_is_refused(either: Cloud, barbican: Barbican, vps_id: str) -> None:
    """The credential is gone: who runs it must act."""
    session = either.accounts.log_in_with(ApplicationCredential(either.deployer.id, "wrong"))
    with pytest.raises(CloudError, match="Keystone refused the login with HTTP 401: check that") as caught:
        Barbican(session, barbican._url).container_named(vps_id)
    assert (caught.value.status, caught.value.retriable) == (None, False)


def test_marks_of_somebody_else_are_none(barbican: Barbican, either: Cloud, vps_id: str) -> None:
    """Other keys, and words that we would not write."""
    version = barbican.create_secret(vps_id, A)
    url = f"{either.testbed.places.barbican_url}/v1/secrets/{version}/metadata"
    for metadata in (
        {"owner": "me"},
        {"rotation": "r", "kind": "k", "slot": "s", "more": "x"},
        {"rotation": "r"},
        {"rotation": "r r", "kind": "k"},
        {"rotation": "r", "kind": "k" * 200},
    ):
        answer = either.deployment._session.put(url, json={"metadata": metadata}, log=False)
        assert answer.status_code == 201
        assert barbican.marks(version) is None
    with pytest.raises(ValueError, match="no word"):
        barbican.mark(version, Marks("", "random"))


def test_an_acl_takes_user_ids_only(barbican: Barbican, vps_id: str) -> None:
    """Barbican takes any text there; one that is no id would let nobody read, or somebody else."""
    version = barbican.create_secret(vps_id, A)
    for wrong in ("vps 1", "a/b", "x" * 65, "*"):
        with pytest.raises(CloudError, match="no id of a Keystone user"):
            barbican.grant_secret(version, wrong)


def test_an_empty_payload_is_never_sent(barbican: Barbican, proxy: FaultProxy, vps_id: str) -> None:
    """A request with no length would be taken for another one."""
    version = barbican.create_secret(vps_id, A)
    seen = len(proxy.seen)
    with pytest.raises(CloudError, match="it is empty"):
        barbican.write_payload(version, bytearray())
    assert len(proxy.seen) == seen


def test_nothing_is_logged(barbican: Barbican, vps_id: str, caplog: pytest.LogCaptureFixture) -> None:
    """With every logger at DEBUG; also when it is refused."""
    canary = secrets.token_hex(16).encode()
    with caplog.at_level(logging.DEBUG):
        version = one(barbican, vps_id, A, canary)
        with pytest.raises(CloudError) as caught:
            barbican.write_payload(version, canary)
        with pytest.raises(CloudError) as missing:
            barbican.write_payload(Version(str(uuid.uuid4())), canary)
    shown = caplog.text + repr(caught.value) + repr(missing.value)
    assert (canary.decode() in shown) is False


def test_the_rules_have_no_call_that_returns_a_payload(
    either: Cloud, barbican: Barbican, vps_id: str
) -> None:
    """Neither as they are written, nor as the real Barbican takes them."""
    assert ("GET", "/v1/secrets/*") not in DEPLOYER_RULES
    assert not [rule for rule in DEPLOYER_RULES if rule[0] == "GET" and "payload" in rule[1]]
    version = one(barbican, vps_id, A)
    session = either.deployment._session
    url = f"{either.testbed.places.barbican_url}/v1/secrets/{version}"
    headers: dict[str, Any] = {"Accept": "text/plain"}
    for path in ("", "/", "/payload"):
        answer = session.get(url + path, headers=headers, raise_exc=False, log=False)
        assert answer.status_code == 401, path
