"""How many connections a door takes, from whom, and how fast a uid may ask."""

from __future__ import annotations

from agent.config.model import Limits
from agent.serve.http.limits import MOST_UNTAKEN, Crowd


def test_all_and_one_uid_are_limited() -> None:
    """A place that becomes free is given again."""
    crowd = Crowd(Limits(connections=5, connections_per_uid=3))
    assert [crowd.enter(1, stranger=False) for _ in range(4)] == [True, True, True, False]
    assert [crowd.enter(2, stranger=False) for _ in range(3)] == [True, True, False]
    crowd.leave(1, stranger=False)
    assert [crowd.enter(uid, stranger=False) for uid in (2, 3)] == [True, False]


def test_strangers_leave_room() -> None:
    """However many uids they have."""
    crowd = Crowd(Limits(connections=8, connections_per_uid=4))
    assert [crowd.enter(uid, stranger=True) for uid in range(100, 103)] == [True, True, False]
    assert all(crowd.enter(uid, stranger=False) for uid in (1, 1, 2, 2, 3, 3))
    assert crowd.enter(4, stranger=False) is False
    crowd.leave(100, stranger=True)
    crowd.leave(1, stranger=False)
    assert crowd.enter(103, stranger=True) is True


def test_a_uid_that_asks_too_fast_waits() -> None:
    """A second's worth at once, then one by one; another uid has its own."""
    crowd = Crowd(Limits(requests_per_second=2))
    assert [crowd.wait(1, 0.0) for _ in range(3)] == [0.0, 0.0, 0.5]
    assert crowd.wait(2, 0.0) == 0.0
    assert crowd.wait(1, 0.5) == 0.0
    assert crowd.wait(1, 0.75) == 0.25
    assert Crowd(Limits()).wait(1, 0.0) == 0.0


def test_a_uid_that_leaves_too_much_untaken_waits() -> None:
    """Whatever its rate; another uid does not; what was taken or given up counts no more."""
    crowd = Crowd(Limits())
    crowd.untaken(1, MOST_UNTAKEN - 1)
    assert crowd.wait(1, 0.0) == 0.0
    crowd.untaken(1, 1)
    assert [crowd.wait(uid, 0.0) > 0 for uid in (1, 2)] == [True, False]
    crowd.untaken(1, -MOST_UNTAKEN)
    assert crowd.wait(1, 0.0) == 0.0
