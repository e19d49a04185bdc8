"""What the deployer makes of answers and catalogs that are not as promised: real HTTP, no value told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from keystoneauth1.identity import v3
from keystoneauth1.session import Session

from deployer.cloud.accounts import Accounts
from deployer.cloud.errors import CloudError
from deployer.cloud.secrets import Deployment
from deployer.config.model import Keystone
from deployer.worker import opening
from lab.testbed.fakes.barbican import FakeBarbican
from lab.testbed.fakes.proxy import FaultProxy, Handler, Real

if TYPE_CHECKING:
    from collections.abc import Iterator

CANARY = b"canary-51c2"


@pytest.fixture
def proxy() -> Iterator[FaultProxy]:
    """A Barbican, and a way to it that can be disturbed."""
    with FakeBarbican() as fake, FaultProxy(fake.url) as made:
        yield made


def logged_in(proxy: FaultProxy) -> tuple[Session, str]:
    """Return a session, and where its Keystone is."""
    auth_url = f"http://{proxy.upstream}/v3"
    login = v3.ApplicationCredential(
        auth_url=auth_url, application_credential_id="id", application_credential_secret="none"
    )
    return Session(auth=login), auth_url


@pytest.mark.parametrize(
    "body",
    [
        b'{"containers": [], "total": 1, "total": 0, "x": "' + CANARY + b'"}',  # which of both?
        b'{"containers": [], "total": NaN}',
        b"<html>" + CANARY,
        b"[" * 100_000,
        b'{"containers": "' + CANARY + b" " * 5_000_000 + b'"}',
    ],
    ids=["twice", "nan", "html", "deep", "long"],
)
def test_an_answer_that_is_none_is_told_without_a_word_of_it(proxy: FaultProxy, body: bytes) -> None:
    """By whoever provisions by hand as by the worker: members that stand there twice, no JSON, too much."""
    session, _ = logged_in(proxy)

    def odd(handler: Handler) -> None:
        handler.give(Real(200, (("Content-Type", "application/json"),), body))

    with proxy.faulty(odd), pytest.raises(CloudError, match="list the containers: the answer is") as caught:
        Deployment(session, proxy.url).create_vps("vps-1", "u")
    assert "canary" not in f"{caught.value}{caught.value.__context__!r}"
    accounts = Accounts(session, proxy.url)
    with proxy.faulty(odd), pytest.raises(CloudError, match="the answer is"):
        accounts._call("GET", "/users", "list the users")


def test_where_barbican_is_that_no_catalog_has(proxy: FaultProxy) -> None:
    """Told with what a person can do, as every other error of the cloud."""
    session, auth_url = logged_in(proxy)
    there = Keystone(auth_url, None, "public", None, "key-manager", None, 30.0)
    assert opening.endpoint(session, there).startswith("http://")
    elsewhere = Keystone(auth_url, "Mars", "public", None, "key-manager", None, 30.0)
    with pytest.raises(CloudError, match=r"find Barbican in Keystone's catalog: .* no such service"):
        opening.endpoint(session, elsewhere)
    dead = v3.Password(auth_url="http://127.0.0.1:9/v3", username="u", password="none")
    with pytest.raises(CloudError, match=r"the connection failed \(ECONNREFUSED\)") as caught:
        opening.endpoint(Session(auth=dead), there)
    assert caught.value.retriable
