"""How many connections a door takes, from whom, and how fast a uid may ask."""

from __future__ import annotations

from agent.config.model import Limits
from agent.core import errors
from agent.serve.http.limits import MAX_BUCKETS, MAX_UNSENT, CallerLimits


def test_all_and_one_uid_are_limited() -> None:
    """A place that becomes free is given again."""
    caller_limits = CallerLimits(Limits(connections=5, connections_per_uid=3))
    assert [caller_limits.enter(1, ungranted=False) for _ in range(4)] == [True, True, True, False]
    assert [caller_limits.enter(2, ungranted=False) for _ in range(3)] == [True, True, False]
    caller_limits.leave(1, ungranted=False)
    assert [caller_limits.enter(uid, ungranted=False) for uid in (2, 3)] == [True, False]


def test_strangers_leave_room() -> None:
    """However many uids they have."""
    caller_limits = CallerLimits(Limits(connections=8, connections_per_uid=4))
    assert [caller_limits.enter(uid, ungranted=True) for uid in range(100, 103)] == [True, True, False]
    assert all(caller_limits.enter(uid, ungranted=False) for uid in (1, 1, 2, 2, 3, 3))
    assert caller_limits.enter(4, ungranted=False) is False
    caller_limits.leave(100, ungranted=True)
    caller_limits.leave(1, ungranted=False)
    assert caller_limits.enter(103, ungranted=True) is True


def test_a_uid_that_asks_too_fast_waits() -> None:
    """A second's worth at once, then one by one; another uid has its own."""
    caller_limits = CallerLimits(Limits(requests_per_second=2))
    assert [caller_limits.wait(1, 0.0) for _ in range(3)] == [0.0, 0.0, 0.5]
    assert caller_limits.wait(2, 0.0) == 0.0
    assert caller_limits.wait(1, 0.5) == 0.0
    assert caller_limits.wait(1, 0.75) == 0.25
    assert CallerLimits(Limits()).wait(1, 0.0) == 0.0


def test_a_uid_that_leaves_too_much_untaken_waits() -> None:
    """Whatever its rate; another uid does not; what was taken or given up counts no more."""
    caller_limits = CallerLimits(Limits())
    caller_limits.unsent(1, MAX_UNSENT - 1)
    assert caller_limits.wait(1, 0.0) == 0.0
    caller_limits.unsent(1, 1)
    assert [caller_limits.wait(uid, 0.0) > 0 for uid in (1, 2)] == [True, False]
    caller_limits.unsent(1, -MAX_UNSENT)
    assert caller_limits.wait(1, 0.0) == 0.0


def test_the_rates_of_uids_that_have_gone_are_forgotten() -> None:
    """Somebody with a range of uids (subuid(5)) fills no memory."""
    caller_limits = CallerLimits(Limits(requests_per_second=1))
    assert [caller_limits.wait(uid, float(uid)) for uid in range(3 * MAX_BUCKETS)] == [0.0] * 3 * MAX_BUCKETS
    assert len(caller_limits._buckets) <= MAX_BUCKETS  # nobody else can see it


def test_a_limit_is_no_denial() -> None:
    """Operators watch ``denied``: it counts who may not, not who comes too soon."""
    problems = [one for one in vars(errors).values() if isinstance(one, errors.Problem)]
    assert {one.status for one in problems if one.outcome == "denied"} == {403}
    assert {one.outcome for one in problems if one.status == 429} == {"rate-limited"}
