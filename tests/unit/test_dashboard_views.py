"""What the dashboard's pages get, in words: no type that could hold a value, no wrong date."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployer.api import answering, content, contract
from deployer.api.dashboard import timeline, views, words
from deployer.api.dashboard.timeline import Life, Scale
from deployer.api.dashboard.views import Asked
from deployer.api.fleet import LOOKS
from deployer.database.checks import CheckRow
from deployer.database.rotations import Figures

NOW = 1_800_000_000.0
DAY = 86400.0
NOBODY = views.Waiting(worker=0, join=0)
PLAIN = {str, int, float, bool, type(None)}
NAMES = {**vars(timeline), **vars(words), **vars(views)}


def leaves(kind: Any) -> set[Any]:
    """Return every type that a value of a type can hold, however deep."""
    origin = typing.get_origin(kind)
    if origin in {types.UnionType, typing.Union, tuple}:
        return {leaf for each in typing.get_args(kind) if each is not ... for leaf in leaves(each)}
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        hints = typing.get_type_hints(kind, NAMES)
        return {leaf for field in dataclasses.fields(kind) for leaf in leaves(hints[field.name])}
    return {kind}


def test_no_template_can_get_a_value() -> None:
    """All that a page holds is text and numbers: no bytes, nothing of which the type is not said."""
    pages = typing.get_args(views.Page)
    assert len(pages) == 8
    for page in pages:
        assert leaves(page) <= PLAIN, page
        assert page.__dataclass_params__.frozen


def test_no_answer_can_hold_a_value() -> None:
    """An answer is JSON; of bytes it can't be made."""
    with pytest.raises(TypeError):
        answering.response_of(answering.Answer({"value": typing.cast("Any", b"x")}))
    names = {
        name for schema in contract.DOCUMENT["components"]["schemas"].values() for name in _names(schema)
    }
    assert names & {"value", "payload", "secret", "password", "verifier", "token"} == set()
    assert "bytes" not in str(content.Content)


def _names(schema: Any) -> set[str]:
    found = set(schema.get("properties", {})) if isinstance(schema, dict) else set()
    for each in schema.get("properties", {}).values() if isinstance(schema, dict) else ():
        found |= _names(each)
    return found


@pytest.mark.parametrize(
    ("away", "said"),
    [
        (0, "just now"),
        (-4, "just now"),
        (-59, "59 seconds ago"),
        (60, "in 1 minute"),
        (3660, "in 1 hour 1 minute"),
        (-3600, "1 hour ago"),
        (-2 * 3600 - 1800, "2 hours ago"),
        (DAY + 3600, "in 1 day 1 hour"),
        (30 * DAY, "in 30 days"),
        (-2000 * DAY, "2,000 days ago"),
    ],
)
def test_moments_from_now(away: float, said: str) -> None:
    """In the unit that fits."""
    assert words.from_now(NOW + away, NOW) == said


def test_words_for_figures() -> None:
    """Rounded so that all is all."""
    assert words.share(999_999, 1_000_000) == "99.9 %"
    assert words.share(5, 5) == words.share(0, 0) == "100 %"
    assert words.share(0, 5) == "0 %"
    assert words.number(1234567) == "1,234,567"
    assert [words.size(each) for each in (0, 1023, 1536, 5 * 1024**2, 3 * 1024**4)] == [
        "0 bytes", "1023 bytes", "1.5 KiB", "5.0 MiB", "3072.0 GiB",
    ]  # fmt: skip
    assert words.moment(None, NOW) is None
    assert words.moment(-1.0, NOW) is None
    assert words.moment(1e300, NOW) is None
    shown = words.moment(0.0, NOW)
    assert shown is not None
    assert shown.iso == "1970-01-01T00:00:00Z"


TIMES = st.floats(NOW - 3000 * DAY, NOW + 3000 * DAY)
LIVES = st.builds(Life, st.none() | TIMES, st.none() | TIMES, st.none() | TIMES)


@given(st.lists(LIVES, max_size=9))
def test_a_time_line_stays_on_its_paper(lives: list[Life]) -> None:
    """Whatever dates Barbican tells: each bar and mark is within it, and dates stand in order."""
    scale = Scale(lives, NOW)
    axis = scale.axis()
    marks = [float(tick.x.rstrip("%")) for tick in axis.ticks]
    assert marks == sorted(marks)
    assert len(marks) <= 12
    for life in lives:
        line = scale.line(life)
        for bar in line.bars:
            left, width = float(bar.x.rstrip("%")), float(bar.width.rstrip("%"))
            assert 0 <= left <= 100
            assert 0 <= width <= 100.01 - left
        assert all(0 <= float(mark.x.rstrip("%")) <= 100 for mark in line.marks)


def test_lines_of_the_four_kinds() -> None:
    """Due later, late, never, not there yet."""
    fine = Life(NOW - 20 * DAY, NOW + 10 * DAY, NOW + 7 * DAY)
    late, never, absent = (
        Life(NOW - 40 * DAY, NOW - DAY, None),
        Life(NOW - DAY, None, None),
        Life(None, None, None),
    )
    scale = Scale([fine, late, never, absent], NOW)
    assert [bar.kind for bar in scale.line(fine).bars] == ["past", "ahead"]
    assert [mark.kind for mark in scale.line(fine).marks] == ["work", "due"]
    assert [bar.kind for bar in scale.line(late).bars] == ["past", "late"]
    assert [bar.kind for bar in scale.line(never).bars] == ["past", "open"]
    assert scale.line(absent) == timeline.Line((), ())


def counts(**some: int) -> dict[str, int]:
    """Return how many VPSs have each look."""
    return {look: some.get(look, 0) for look in LOOKS}


@pytest.mark.parametrize(
    ("some", "summary", "calm"),
    [
        ({}, "There is no VPS yet.", True),
        ({"fine": 1}, "The VPS is cared for.", True),
        ({"fine": 3, "joining": 2}, "All 5 VPSs are cared for.", True),
        ({"late": 1, "fine": 1999}, "1 of 2,000 VPSs needs somebody.", False),
        ({"failing": 1, "expiring": 1}, "2 of 2 VPSs need somebody.", False),
    ],
)
def test_the_first_sentence(some: dict[str, int], summary: str, calm: bool) -> None:  # noqa: FBT001  # a table
    """It says whether anybody is needed."""
    page = views.fleet_page(NOW, Asked(), counts(**some), (), more=None, waiting=NOBODY, besides=())
    assert (page.summary, page.calm) == (summary, calm)


@pytest.mark.parametrize(
    ("waiting", "summary", "headline", "advice"),
    [
        (views.Waiting(1, 0), "No worker comes: 1 of 9 VPSs waits.", "1 for the worker", "systemctl status"),
        (views.Waiting(3, 2), "No worker comes: 3 of 9 VPSs wait.", "3 for the worker", "systemctl status"),
        (views.Waiting(0, 2), "2 of 9 VPSs need somebody.", "2 to join", "each row says what is missing"),
    ],
)
def test_who_waits_too_long_is_told_first(
    waiting: views.Waiting, summary: str, headline: str, advice: str
) -> None:
    """For the worker, which keeps all others waiting, and to join; with what to do."""
    page = views.fleet_page(
        NOW, Asked(), counts(fine=7, joining=2), (), more=None, waiting=waiting, besides=()
    )
    assert (page.summary, page.calm) == (summary, False)
    card = views.waiting_card(waiting)
    assert (card.headline, card.mood) == (headline, "bad")
    assert advice in card.detail
    assert views.waiting_card(NOBODY).mood == "good"


def test_addresses_keep_what_was_chosen() -> None:
    """A tile that is chosen leads back; a page's end leads on, with the same filter."""
    asked = Asked(look="late", text="a&b", label="env=prod", after="0:vps")
    page = views.fleet_page(NOW, asked, counts(late=3), (), more="0:vps-9", waiting=NOBODY, besides=())
    assert page.next_href == "/?look=late&q=a%26b&label=env%3Dprod&after=0%3Avps-9"
    assert page.first_href == "/?look=late&q=a%26b&label=env%3Dprod"
    by_look = {tile.look: tile for tile in (*page.attention, *page.plain)}
    assert by_look["late"].href == "/?q=a%26b&label=env%3Dprod"
    assert by_look["fine"].href == "/?look=fine&q=a%26b&label=env%3Dprod"
    assert by_look["late"].chosen


def test_checks_that_failed_come_first() -> None:
    """And the headline counts them; none that was run is neither good nor bad."""
    rows = [
        CheckRow(1, NOW, "a", passed=True, detail={}),
        CheckRow(2, NOW, "b", passed=False, detail={"account": "vps-1", "left": [], "n": 1}),
    ]
    page = views.checks_page(NOW, rows)
    assert [row.name for row in page.rows] == ["b", "a"]
    assert (page.headline, page.mood) == ("1 of 2 failed.", "bad")
    assert [(fact.name, fact.text) for fact in page.rows[0].about] == [("account", "vps-1"), ("n", "1")]
    assert views.checks_page(NOW, rows[:1]).mood == "good"
    assert views.checks_page(NOW, ()).mood == "none"


def test_the_cards_alarm_when_the_worker_did_not_pass() -> None:
    """That, and what was not in time, and a check that failed; without a backup it is said."""
    quiet = Figures(due=0, in_time=0, late=0, worst_s=0.0, open=0, given_up=0, unattended=0, external=0)
    rotated, checked = views.cards(NOW, quiet, ())
    kept = views.backup_card(NOW, (), ())
    assert (rotated.headline, rotated.mood, checked.mood, kept.mood) == (
        "None was due",
        "none",
        "none",
        "none",
    )
    rotated, _ = views.cards(NOW, dataclasses.replace(quiet, unattended=3), ())
    assert rotated.mood == "bad"
    assert "the worker did not pass" in rotated.detail
    rotated, _ = views.cards(NOW, dataclasses.replace(quiet, due=10, in_time=9, given_up=1), ())
    assert (rotated.headline, rotated.mood) == ("90 % in time", "bad")
