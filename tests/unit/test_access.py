"""agent/core/access.py: the decision denies unless a grant allows."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.core.access import Grant, NoId, Peer, decide, explain, readers
from common.names import SecretName

APP = Peer(pid=10, uid=1000, gid=1000, groups=frozenset({1000, 44}), unit="recruitiq.service")
NAME = SecretName("JWT_SECRET")


def test_no_grants_deny() -> None:
    """No grants, no answers."""
    assert not decide(APP, NAME, ()).allowed
    assert explain(APP, NAME, ()) == ["there are no grants: nobody may read anything"]


def test_a_missing_peer_is_denied_even_by_a_grant_for_everything() -> None:
    """A caller that the kernel does not name has no rights."""
    assert not decide(None, NAME, (Grant(0, ("*",), user="app", uid=1000),)).allowed


def test_a_grant_without_any_caller_matches_nobody() -> None:
    """An empty rule is not a rule for everyone."""
    assert not decide(APP, NAME, (Grant(0, ("*",)),)).allowed


def test_a_user_that_does_not_exist_matches_nobody() -> None:
    """An unresolved name must not fall back to a default id."""
    assert not decide(APP, NAME, (Grant(0, ("*",), user="ghost"),)).allowed


def test_root_has_no_rights_of_its_own() -> None:
    """An administrator's shell is a person."""
    root = Peer(pid=1, uid=0, gid=0, groups=frozenset({0}))
    assert not decide(root, NAME, (Grant(0, ("*",), user="app", uid=1000),)).allowed


def test_a_supplementary_group_is_enough() -> None:
    """Groups are all groups of the caller, not only the primary one."""
    assert decide(APP, NAME, (Grant(0, ("*",), group="video", gid=44),)).allowed


def test_everything_that_is_given_must_match() -> None:
    """User and unit together are an and."""
    grant = Grant(0, ("JWT_*",), user="app", uid=1000, unit="other.service")
    assert not decide(APP, NAME, (grant,)).allowed
    assert explain(APP, NAME, (grant,)) == [
        "grant 1 (user app, unit other.service: JWT_*): no, it is for unit other.service"
    ]


def test_readers_are_compared_by_number() -> None:
    """Of grants that cover the name; a rule for nobody, or for an account that has no id, has none."""
    grants = (
        Grant(0, ("JWT_*",), user="app", uid=1000, unit="one.service"),
        Grant(1, ("*",), group="video", gid=44),
        Grant(2, ("OTHER",), user="root", uid=0),
        Grant(3, ("*",)),
        Grant(4, ("*",), user="ghost"),
        Grant(5, ("*",), user="late", uid=NoId.UNKNOWN, unit="two.service"),
    )
    assert readers(NAME, grants) == {"uid=1000 unit=one.service", "gid=44"}
    renamed = Grant(7, ("*",), group="film", gid=44)
    assert readers(NAME, (renamed,)) <= readers(NAME, grants), "who they are counts, not their name"


@given(
    uid=st.integers(0, 3), gid=st.integers(0, 3), grants=st.lists(st.tuples(st.integers(0, 3), st.booleans()))
)
def test_allowed_only_by_a_grant_that_names_the_uid(
    uid: int, gid: int, grants: list[tuple[int, bool]]
) -> None:
    """Whatever the grants, the decision equals the plain reading of the rule."""
    peer = Peer(pid=1, uid=uid, gid=gid, groups=frozenset({gid}))
    rules = tuple(
        Grant(i, ("*",) if covers else ("X*",), user="u", uid=other)
        for i, (other, covers) in enumerate(grants)
    )
    assert decide(peer, NAME, rules).allowed is any(other == uid and covers for other, covers in grants)
