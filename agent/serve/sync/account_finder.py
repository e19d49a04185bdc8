"""Which ids the named users and groups have: looked up again when it may matter.

A user can be made, removed or given another id while the agent runs. Owns ``grants``' ids and ``admins`` of
the state, between two reloads.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from agent.serve.host import accounts, clock

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.serve.state import State

FIND_EVERY_S: Final = 0.2
"""How often refused callers cause a look-up, at most."""

_log: Final = logging.getLogger("agent.accounts")


class AccountFinder:
    """Looks the grants' users and groups up, and the administrators' group."""

    def __init__(self, state: State, on_change: Callable[[], None]) -> None:
        """``on_change`` is called after the state has other ids."""
        self._state: Final = state
        self._on_change: Final = on_change
        self._found_at = clock.boot()

    def find(self) -> bool:
        """Look all of them up; True where one has another id now. Where nobody can tell, nothing changes."""
        self._found_at = clock.boot()
        if not accounts.can_be_asked():
            return False
        state = self._state
        before, admins = state.grants, accounts.gid_of(state.config.control.admin_group)
        grants = accounts.found_again(before)
        if grants is before and admins == state.admins:
            return False
        for text in accounts.differences(before, grants):
            _log.warning("%s", text)
        state.grants, state.admins = grants, admins
        self._on_change()
        return True

    def find_for_stranger(self) -> bool:
        """As :meth:`find`, but not for each of the callers that are refused and so cause it."""
        return clock.boot() - self._found_at >= FIND_EVERY_S and self.find()
