"""What is served can't be acknowledged: whatever Barbican answers, the reading is whole and is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from common import sealing, sealing_key
from common.acknowledgement import CONSUMER, consumer_of, digest_of
from lab.testbed.fakes import faults
from lab.testbed.fakes.cloud import VPS, FakeCloud
from lab.testbed.fakes.fetching import Fetch, Ran, configure

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lab.testbed.fakes.cloud import Handler
    from lab.testbed.fakes.faults import Fault

FORMER, NOW = "1" * 64, "2" * 64
STRANGERS: list[dict[str, object]] = [
    {"name": "vps-secrets", "URL": "urn:vps-secrets:key:x"},
    {"name": "other", "URL": consumer_of(FORMER)["URL"]},
]


@pytest.fixture
def cloud() -> Iterator[FakeCloud]:
    """A healthy cloud, whose container says what a former life has served."""
    with FakeCloud() as made:
        made.add(f"{VPS}/A")
        made.consumers = [*STRANGERS, dict(consumer_of(FORMER))]
        yield made


def quiet(fetch: Fetch, first: Ran, serves: str | None = NOW) -> Ran:
    """Make a cycle that has nothing to read."""
    known = frozenset(first.reading.read)
    return fetch(known=known, token_state=first.reply.token_state, serves=serves)


def said(cloud: FakeCloud) -> list[str]:
    """Return what the container says."""
    urls = [str(consumer["URL"]) for consumer in cloud.consumers if consumer["name"] == CONSUMER]
    return [digest for digest in map(digest_of, urls) if digest is not None]


def on(method: str, fault: Fault) -> Fault:
    """Have the fault for one method only."""

    def answer(handler: Handler) -> None:
        if handler.command == method:
            fault(handler)
        else:
            handler.server.cloud.barbican(handler)

    return answer  # type: ignore[return-value]  # the fake cloud's handlers are all of this kind


def test_the_new_one_comes_before_the_former_goes(cloud: FakeCloud, tmp_path: Path) -> None:
    """Two calls; then none, as long as it is listed alone. What is not ours stays."""
    fetch = configure(cloud, tmp_path)
    first = fetch(serves=NOW)
    assert first.reply.acknowledged == (FORMER,), "what was read is going to replace what is served"
    cloud.requests.clear()
    ran = quiet(fetch, first)
    assert [method for _, method, _ in cloud.requests] == ["GET", "POST", "DELETE"]
    assert (ran.reply.acknowledged, ran.reply.acknowledge_problem) == ((NOW,), "")
    assert ran.calls == {"keystone": 0, "barbican": 3}
    assert (said(cloud), cloud.consumers[:2]) == ([NOW], STRANGERS)
    cloud.requests.clear()
    again = quiet(fetch, first)
    assert again.reply.acknowledged == (NOW,)
    assert quiet(fetch, first, serves=None).reply.acknowledged == (NOW,)
    assert len(cloud.requests) == 2
    assert not ran.leaks(cloud.canaries)


def test_what_former_lives_have_left_goes(cloud: FakeCloud, tmp_path: Path) -> None:
    """Ten in one cycle, the rest in the next ones; one that has gone meanwhile is no problem."""
    cloud.consumers += [dict(consumer_of(f"{number:064x}")) for number in range(24)]
    fetch = configure(cloud, tmp_path)
    first = fetch()
    for left in (16, 6, 1, 1):
        ran = quiet(fetch, first)
        assert (len(ran.reply.acknowledged), ran.reply.acknowledge_problem) == (left, "")
    cloud.consumers.append(dict(consumer_of(FORMER)))
    cloud.faults["/consumers"] = on("DELETE", faults.refused(404))
    ran = quiet(fetch, first)
    assert (ran.reply.acknowledged, ran.reply.acknowledge_problem) == ((NOW,), "")


def test_a_key_that_is_not_announced_is_told_though_all_else_went_well(
    cloud: FakeCloud, tmp_path: Path
) -> None:
    """What is served stands there already; the next cycle announces the key, and says nothing more."""
    key = tmp_path / "sealing-key"
    key.touch(0o600)
    key.write_text(sealing_key.encoded(sealing.new_key()[0]))
    cloud.consumers = [dict(consumer_of(NOW))]
    fetch = configure(cloud, tmp_path, f'[fetch]\nacknowledge = true\nsealing_key_file = "{key}"\n')
    cloud.faults["/consumers"] = on("POST", faults.refused(500))
    first = fetch()
    problem = quiet(fetch, first).reply.acknowledge_problem
    assert problem.startswith("the key of this VPS is not announced: HTTP 500")
    cloud.faults.clear()
    assert quiet(fetch, first).reply.acknowledge_problem == ""
    assert [one["name"] for one in cloud.consumers] == [CONSUMER, sealing_key.CONSUMER]


CASES: dict[str, tuple[Fault, str]] = {
    "no rule": (faults.unauthorized, "POST and DELETE on /v1/containers/UUID/consumers"),
    "403": (faults.refused(403), "HTTP 403, it does not exist any more or this account has no access"),
    "403 page": (faults.page(403), "HTTP 403, unexpected"),
    "429": (faults.refused(429, Retry_After="7"), "HTTP 429, it asks for fewer requests"),
    "500": (faults.refused(500), "HTTP 500, the service's own log says why"),
    "created": (faults.content(b"{}", status=201), "it answered 201"),
    "a page": (faults.page(200), "is not application/json"),
    "a redirect": (faults.page(302, Location="/x"), "redirects are not followed"),
    "hangs up": (faults.hanging_up, "connection"),
    "truncated": (faults.truncated, ""),
    "endless": (faults.endless, ""),
}


@pytest.mark.parametrize("method", ["POST", "DELETE"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_refusal_costs_one_try_and_nothing_else(
    cloud: FakeCloud, tmp_path: Path, case: tuple[Fault, str], method: str
) -> None:
    """The reading is whole, the problem is told, there is no second login; the next cycle makes it good."""
    fault, words = case
    fetch = configure(cloud, tmp_path)
    first = fetch()
    cloud.requests.clear()
    cloud.faults["/consumers"] = on(method, fault)
    ran = quiet(fetch, first)
    assert [m for _, m, _ in cloud.requests] == ["GET", "POST", "DELETE"][: 2 if method == "POST" else 3]
    assert ran.calls == {"keystone": 0, "barbican": len(cloud.requests)}
    assert ran.reading.entries == first.reading.entries
    begins = "what is served is not" if method == "POST" else "a former acknowledgement is left"
    assert ran.reply.acknowledge_problem.startswith(begins)
    assert words in ran.reply.acknowledge_problem
    assert ran.reply.acknowledged == ((FORMER,) if method == "POST" else (FORMER, NOW))
    assert ran.reply.token_state
    assert not ran.leaks(cloud.canaries)
    cloud.faults.clear()
    again = quiet(fetch, first)
    assert (again.reply.acknowledged, again.reply.acknowledge_problem) == ((NOW,), "")
    assert said(cloud) == [NOW]


@pytest.mark.parametrize("fault", [faults.hanging, faults.dripping], ids=["hanging", "dripping"])
def test_a_barbican_that_hangs_holds_the_reading_up_for_no_longer_than_it_may(
    cloud: FakeCloud, tmp_path: Path, fault: Fault
) -> None:
    """At most what the cycle has left."""
    fetch = configure(cloud, tmp_path)
    first = fetch()
    cloud.faults["/consumers"] = fault
    ran = fetch(
        known=frozenset(first.reading.read),
        token_state=first.reply.token_state,
        serves=NOW,
        timeout=6.0,
    )
    assert ran.reading.entries == first.reading.entries
    assert ran.reply.acknowledge_problem.startswith("what is served is not acknowledged: ")
    assert "in time" in ran.reply.acknowledge_problem
