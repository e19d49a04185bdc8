"""agent/core/acl.py: the bytes, and whom a list lets in; test_explain.py asks the kernel."""

from __future__ import annotations

import pytest

from agent.core import acl
from agent.core.acl import Entry

NO_ID = 0xFFFFFFFF
OF_0660 = (Entry(acl.OWNER, NO_ID, 6), Entry(acl.GROUP_OWNER, NO_ID, 6), Entry(acl.OTHER, NO_ID, 0))


def test_a_mode_as_a_list_and_back() -> None:
    """What is encoded is decoded; bytes that are no list are none."""
    assert acl.of_mode(0o660) == OF_0660
    assert acl.decode(acl.encode(OF_0660)) == OF_0660
    for content in (b"", b"\1\0\0\0", acl.encode(OF_0660)[:-1]):
        assert acl.decode(content) is None


def test_who_is_added_and_who_stays() -> None:
    """A user and a group besides; a mask that bounded somebody goes on bounding him."""
    bounded = (*OF_0660, Entry(acl.USER, 7, 6), Entry(acl.MASK, NO_ID, 4))
    found = acl.with_callers(bounded, {8}, {9})
    assert found == acl.with_callers(found, {8}, {9})

    def may(uid: int, *groups: int) -> bool:
        return acl.permits(found, 0o2, (uid, frozenset(groups)), 60)

    assert (may(8), may(1, 9), may(7), may(1, 60), may(1)) == (True, True, False, False, False)


@pytest.mark.parametrize(
    ("uid", "groups", "permitted"), [(1, {60}, True), (1, {61}, False), (5, {60}, False), (1, set(), False)]
)
def test_the_order_of_a_list(uid: int, groups: set[int], *, permitted: bool) -> None:
    """A user's own entry decides before his groups."""
    entries = (*OF_0660, Entry(acl.USER, 5, 4), Entry(acl.MASK, NO_ID, 7))
    assert acl.permits(entries, 0o2, (uid, frozenset(groups)), 60) is permitted
