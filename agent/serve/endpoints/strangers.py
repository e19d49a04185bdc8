"""A second look at a caller that is refused: its user or group may have been made since the last one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.serve.http.responses import DeferredAnswer, refusal_record

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.core.errors import RequestError
    from agent.serve.http.responses import Said
    from agent.serve.sync.account_finder import AccountFinder


def after_look_up(
    finder: AccountFinder, answer: Callable[[], Said], path: str, refusal: RequestError
) -> DeferredAnswer:
    """Return what ``answer`` says once users and groups have been looked up.

    Raises:
        RequestError: the ``refusal``, where none is to be waited for.
    """
    look_up = finder.find_for_stranger()
    if look_up is None:
        raise refusal

    async def later() -> Said:
        await finder.answered(look_up)
        return answer()

    return DeferredAnswer(later, unheard=refusal_record(path, refusal))
