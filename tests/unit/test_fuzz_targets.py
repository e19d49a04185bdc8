"""lab/fuzz: a short slice of it without coverage, and the control that a broken sentence is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.untrusted_json import MalformedError
from lab.fuzz import targets
from lab.fuzz.targets import TARGETS

if TYPE_CHECKING:
    from lab.fuzz.targets import Target

NAMES = [one.name for one in TARGETS]


@pytest.mark.parametrize("target", TARGETS, ids=NAMES)
def test_something_is_taken(target: Target) -> None:
    """One of the seeds, or what is fuzzed would be the refusal only."""
    assert any(target.run(seed) for seed in target.seeds)


@pytest.mark.parametrize("target", TARGETS, ids=NAMES)
@given(data=st.data())
def test_the_sentence_holds(target: Target, data: st.DataObject) -> None:
    """For noise, and for seeds with a piece that is another one, or gone."""
    seed = data.draw(st.sampled_from(target.seeds) | st.just(b""))
    begin = data.draw(st.integers(0, len(seed)))
    end = data.draw(st.integers(begin, len(seed)))
    target.run(seed[:begin] + data.draw(st.binary(max_size=20)) + seed[end:])


def test_a_broken_sentence_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """By each of the ways that there are: another error, what is taken wrongly, words that quote."""
    (http,) = (one for one in TARGETS if one.name == "http")
    monkeypatch.setattr(targets, "_by_h11", lambda _: False)
    monkeypatch.setattr(targets, "_by_llhttp", lambda _: False)
    with pytest.raises(AssertionError, match="both refuse"):
        http.run(http.seeds[0])
    with pytest.raises(AssertionError, match="not printable"):
        targets._refused(MalformedError("\x1b[2J"))
