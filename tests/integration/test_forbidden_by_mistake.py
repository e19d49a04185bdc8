"""A 403 that Keystone answers by mistake (ADR 51), over real HTTP: asked again twice, then believed."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pytest
from keystoneauth1.session import Session
from keystoneauth1.token_endpoint import Token

from agent.identity.calls import Line
from agent.identity.errors import IdentityError
from deployer.cloud import calls
from deployer.cloud.errors import CloudError
from lab.testbed.fakes.cloud import FakeCloud, Handler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lab.testbed.fakes.handler import AnsweringHandler

PATH = "/users/u/application_credentials/c"
STEP = "look at a credential"


@pytest.fixture
def cloud() -> Iterator[FakeCloud]:
    """A cloud whose Keystone answers one path."""
    with FakeCloud() as made:
        yield made


def forbid(cloud: FakeCloud, times: int) -> None:
    """Have Keystone answer 403 so many times."""
    left = [times]

    def fault(handler: AnsweringHandler) -> None:
        assert isinstance(handler, Handler)
        left[0] -= 1
        if left[0] < 0:
            cloud.keystone(handler)
        else:
            handler.answer(403, b'{"error": {"code": 403}}')

    cloud.faults[PATH] = fault


def of_a_vps(cloud: FakeCloud, statuses: tuple[int, ...] = (200,)) -> int:
    """Ask as a VPS does."""
    return Line().call("GET", cloud.auth_url + PATH, STEP, statuses, token=cloud.token).status


def of_the_deployer(cloud: FakeCloud, statuses: tuple[int, ...] = (200,), **more: Any) -> int:
    """Ask as the deployer does."""
    session = Session(auth=Token(cloud.auth_url, cloud.token))
    return calls.call(session, "GET", cloud.auth_url + PATH, STEP, statuses, **more).status


BOTH = pytest.mark.parametrize("ask", [of_a_vps, of_the_deployer])


@BOTH
@pytest.mark.parametrize("times", [0, 1, 2])
def test_it_goes_by(cloud: FakeCloud, ask: Callable[..., int], times: int) -> None:
    """Once, or twice in a row."""
    forbid(cloud, times)
    assert ask(cloud) == 200
    assert len(cloud.paths("keystone")) == times + 1


@BOTH
def test_one_that_stays_is_told(cloud: FakeCloud, ask: Callable[..., int]) -> None:
    """It was meant: no retry later helps."""
    forbid(cloud, 100)
    with pytest.raises((IdentityError, CloudError), match=f"{STEP}: HTTP 403") as caught:
        ask(cloud)
    assert isinstance(caught.value, IdentityError | CloudError)
    assert caught.value.retriable is False
    assert len(cloud.paths("keystone")) == 3


@BOTH
def test_one_that_is_promised_is_an_answer(cloud: FakeCloud, ask: Callable[..., int]) -> None:
    """Such as of a deletion of what is in use: whoever asks knows what to make of it."""
    forbid(cloud, 100)
    assert ask(cloud, (200, 403)) == 403
    assert len(cloud.paths("keystone")) == 1


def test_a_stream_is_sent_once(cloud: FakeCloud) -> None:
    """Its content is gone with the first call: no second one without it."""
    forbid(cloud, 1)
    with pytest.raises(CloudError, match="HTTP 403"):
        of_the_deployer(cloud, data=io.BytesIO(b"a backup"))
    assert len(cloud.paths("keystone")) == 1
