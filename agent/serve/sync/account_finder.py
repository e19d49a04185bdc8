"""Which ids the named users and groups have: looked up again when it may matter.

A user can be made, removed or given another id while the agent runs. The system's databases may be SSSD or
LDAP, and hang: they are asked in a thread of their own, one look-up at a time, and nobody waits for one
longer than ``PATIENCE_S`` (docs/adr/0018). Owns the ids, the state's ``grants`` and ``admins``, which follow
from them and the configuration, and ``look_ups``.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final, TypeVar

from agent.core import bucket
from agent.core.access import NoId
from agent.core.errors import ACCOUNTS_UNAVAILABLE, RequestError
from agent.serve.host import accounts, clock, listener
from agent.serve.host.logs import place
from agent.serve.host.worker import Worker
from agent.serve.sync import freshness
from common.durations import span

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from agent.core.access import Peer
    from agent.core.reach import File
    from agent.serve.host.accounts import Found, Ids
    from agent.serve.state import State

FIND_EVERY_S: Final = 0.2
"""How often refused callers cause a look-up, at most."""
AGAIN_S: Final = 60.0
"""When to look again where nobody could tell, at the latest."""
PATIENCE_S: Final = 2.0
"""How long a look-up may take before it counts as late: then nobody waits for it any more."""

T = TypeVar("T")
_log: Final = logging.getLogger("agent.accounts")


class AccountFinder:
    """Looks the grants' users and groups up, and the groups of the sockets."""

    def __init__(self, state: State, on_change: Callable[[], None]) -> None:
        """``on_change`` is called after the state has other ids, or other grants."""
        self._state: Final = state
        self._on_change: Final = on_change
        self._worker: Final = Worker("accounts")
        self._ids: Ids = {}
        self._began_at = 0.0
        self._strangers = bucket.Bucket(1, FIND_EVERY_S)
        self._under_way: asyncio.Future[None] | None = None
        self._next: asyncio.Future[None] | None = None
        self._no_answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def ids(self) -> Ids:
        """The ids of all that the configuration names, as far as they are known."""
        return self._ids

    def configured(self) -> asyncio.Future[None]:
        """Take the configuration that is in force now; return the end of a look-up for what is new in it.

        Its grants hold at once, as far as their accounts are known. A look-up that has begun before brings
        ids by name, so it can't bring former grants back.
        """
        self._assign(self._of_all(self._ids))
        self._on_change()
        return self.find()

    def find(self) -> asyncio.Future[None]:
        """Return the end of the next look-up to begin: one that is under way may have asked already."""
        if self._under_way is None:
            return self._begin(asyncio.get_running_loop().create_future())
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        return self._next

    def find_for_stranger(self) -> asyncio.Future[None] | None:
        """Return the end of a look-up that a refused caller may wait for, None where it is refused at once.

        Callers that are refused must not cause one each, and not wait where no answer is to be expected.
        """
        if self._state.look_ups.late_since is not None:
            return None
        if self._under_way is not None:
            return self._under_way
        now = clock.boot()
        if bucket.wait(self._strangers, now):
            return None
        self._strangers, _ = bucket.take(self._strangers, now)
        return self.find()

    async def answered(self, asked: asyncio.Future[T]) -> bool:
        """Wait for an answer; False where it is late, or the agent ends."""
        if self._state.look_ups.late_since is None:
            either: set[asyncio.Future[Any]] = {asked, self._no_answer}
            await asyncio.wait(either, timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
        return asked.done()

    async def peer_of(self, user: str, unit: str | None) -> Peer | None:
        """Return the caller that a user's process in a unit would be, None where there is no such user.

        The grants are those of a look-up that began after the question.

        Raises:
            RequestError: ACCOUNTS_UNAVAILABLE, nobody can tell.
        """
        why = "it has not answered"
        if await self.answered(self.find()):
            asked = self._worker.do(lambda: accounts.peer_of(user, unit))
            if not await self.answered(asked):
                asked.cancel()
            else:
                try:
                    return asked.result()
                except OSError as error:
                    why = accounts.reason(error)
        raise RequestError(ACCOUNTS_UNAVAILABLE, why)

    async def way_to(self, path: Path) -> tuple[File, ...] | None:
        """Return what a caller meets on the way to a socket (listener.py), None where nobody can tell.

        Raises:
            FileNotFoundError: the directory is there, and the socket is not.
        """
        asked = self._worker.do(lambda: listener.way_to(path))
        if await self.answered(asked):
            return asked.result()
        asked.cancel()
        return None

    def end(self) -> None:
        """Have nobody wait any more: the agent ends."""
        if self._timer is not None:
            self._timer.cancel()
        self._give_up()

    def _begin(self, ended: asyncio.Future[None]) -> asyncio.Future[None]:
        self._under_way, self._began_at = ended, clock.boot()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(PATIENCE_S, self._late)
        wanted, known = accounts.named(self._state.config), self._ids
        self._worker.do(lambda: accounts.look_up(wanted, known)).add_done_callback(self._found)
        return ended

    def _found(self, job: asyncio.Future[Found]) -> None:
        """Take what a look-up found, and begin the next one where somebody has asked meanwhile."""
        ended, self._under_way = self._under_way, None
        if self._timer is not None:
            self._timer.cancel()
        look_ups = self._state.look_ups
        if look_ups.late_since is not None:
            _log.warning(
                "the system's user database answers again, after %s", span(clock.boot() - look_ups.late_since)
            )
            look_ups.late_since = None
        if error := job.exception():
            _log.error("a look-up of users and groups failed, report this bug: %s", place(error))
        else:
            self._take(job.result())
        if ended is not None:
            ended.set_result(None)
        if self._next is not None:
            ended, self._next = self._next, None
            self._begin(ended)
        elif look_ups.unsure:
            self._timer = asyncio.get_running_loop().call_later(AGAIN_S, self.find)

    def _take(self, found: Found) -> None:
        state, before, known = self._state, self._state.grants, self._ids
        ids = self._of_all({**known, **found.ids})
        if ids != known:  # else the grants stay the same object, by which a stream sees that nothing changed
            self._assign(ids)
        unsure = tuple(sorted(str(one) for one in found.unsure if one in ids))
        if unsure != state.look_ups.unsure:
            state.look_ups.unsure, state.look_ups.why = unsure, found.why
            _log.warning("%s", freshness.unsure(state) or "the user database can tell about everybody again")
        if ids != known:
            for text in accounts.differences(before, state.grants, found.heirs):
                _log.warning("%s", text)
            self._on_change()

    def _of_all(self, known: Ids) -> Ids:
        """Return the ids of all that the configuration names, and of nobody else."""
        return {one: known.get(one, NoId.UNKNOWN) for one in accounts.named(self._state.config)}

    def _assign(self, ids: Ids) -> None:
        """Have these ids, and what follows from them."""
        state, self._ids = self._state, ids
        state.grants = accounts.grants_of(state.config.grants, ids)
        state.admins = accounts.gid_of(state.config.control.admin_group, ids)
        state.look_ups.unknown = tuple(sorted(str(one) for one in ids if ids[one] is NoId.UNKNOWN))

    def _late(self) -> None:
        """Have nobody wait any more for a look-up that hangs, until it has ended."""
        self._state.look_ups.late_since = self._began_at
        _log.warning("%s", freshness.unsure(self._state))
        self._give_up()
        self._no_answer = asyncio.get_running_loop().create_future()

    def _give_up(self) -> None:
        if not self._no_answer.done():
            self._no_answer.set_result(None)
