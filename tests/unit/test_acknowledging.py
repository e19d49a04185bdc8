"""agent/serve/sync/acknowledging.py: what a cycle is to acknowledge, and what its reply means."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from agent.config.reader import load
from agent.core import wire
from agent.core.rotation import Reading
from agent.core.secret import SecretMetadata
from agent.serve.host import clock
from agent.serve.state import State
from agent.serve.store.store import Store
from agent.serve.sync.acknowledging import Acknowledging, is_current
from common.acknowledgement import served_digest
from common.names import SecretName, Version

A = SecretName("A")
ONE, TWO = (Version(f"{digit * 8}-1111-4111-8111-111111111111") for digit in "12")
DIGESTS = {version: served_digest({A: version}) for version in (ONE, TWO)}
STRANGE = "0" * 64


@pytest.fixture
def state() -> State:
    """An agent that acknowledges, and holds nothing yet."""
    config = load(Path("packaging/agent.toml"))
    config = replace(config, fetch=replace(config.fetch, acknowledge=True))
    return State(config, (), Store(), clock.boot())


def publish(state: State, version: Version) -> None:
    """Serve this version."""
    facts = SecretMetadata(A, version, 1, "text/plain", 1.0, None)
    state.store.publish({A: version}, {version: (facts, b"x")}, previous_until=0.0, now=0.0)


def reply(*listed: str, problem: str = "") -> wire.Reply:
    """Return the reply of a cycle that was good."""
    return wire.Reply("", "", "", Reading(()), None, acknowledged=listed, acknowledge_problem=problem)


def test_what_is_new_is_due_until_it_was_asked_for(state: State) -> None:
    """At a start nothing is held; then each publication is due, once."""
    acknowledging = Acknowledging(state)
    assert acknowledging.ask() is None
    for version, listed in ((ONE, ()), (TWO, (DIGESTS[ONE],))):
        publish(state, version)
        acknowledging.note(reply(*listed))
        assert acknowledging.is_due()
        assert not is_current(state)
        assert acknowledging.ask() == DIGESTS[version]
        acknowledging.note(reply(DIGESTS[version]))
        assert not acknowledging.is_due()
        assert is_current(state)
        assert state.acknowledgement.digest == DIGESTS[version]


@pytest.mark.parametrize(
    ("listed", "due", "current"),
    [
        ((), True, False),
        ((DIGESTS[ONE],), False, True),
        ((DIGESTS[ONE], STRANGE), True, True),
        ((STRANGE,), True, False),
    ],
)
def test_a_start_compares_with_what_is_listed(
    state: State, listed: tuple[str, ...], *, due: bool, current: bool
) -> None:
    """What a former life has said is as good as said now; what is too much has to go."""
    acknowledging = Acknowledging(state)
    acknowledging.ask()
    publish(state, ONE)
    acknowledging.note(reply(*listed))
    assert (acknowledging.is_due(), is_current(state)) == (due, current)


def test_a_refusal_is_told_once_and_is_not_due_again(state: State, caplog: pytest.LogCaptureFixture) -> None:
    """The next cycle asks for it all the same."""
    acknowledging = Acknowledging(state)
    publish(state, ONE)
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            assert acknowledging.ask() == DIGESTS[ONE]
            acknowledging.note(reply(problem="refused"))
            assert not acknowledging.is_due()
        assert (state.acknowledgement.problem, caplog.text.count("refused")) == ("refused", 1)
        acknowledging.note(reply(DIGESTS[ONE]))
    assert state.acknowledgement.problem == ""
    assert caplog.text.count("is acknowledged") == 1


def test_one_that_was_removed_is_said_no_more(state: State) -> None:
    """Of what is served; that a former generation was acknowledged stays known."""
    acknowledging = Acknowledging(state)
    publish(state, ONE)
    acknowledging.note(reply(DIGESTS[ONE]))
    generation = state.acknowledgement.generation
    publish(state, TWO)
    acknowledging.note(reply(DIGESTS[ONE]))
    assert (state.acknowledgement.generation, is_current(state)) == (generation, False)
    acknowledging.note(reply(DIGESTS[TWO]))
    acknowledging.note(reply())
    assert state.acknowledgement.generation is None
    assert not is_current(state)


def test_off_it_says_and_notes_nothing(state: State) -> None:
    """Also where it was on before."""
    acknowledging = Acknowledging(state)
    publish(state, ONE)
    state.config = replace(state.config, fetch=replace(state.config.fetch, acknowledge=False))
    assert acknowledging.ask() is None
    acknowledging.note(reply(DIGESTS[ONE], problem="x"))
    assert not acknowledging.is_due()
    assert (state.acknowledgement.digest, state.acknowledgement.problem) == (None, "")
