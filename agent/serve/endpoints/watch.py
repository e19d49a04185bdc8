"""Waiting for a change: the long poll and the event stream of the app socket.

Only names that the caller may read, at the moment of the answer, wake it. An agent that stops ends all waits
as if their time was up: whoever asks again is answered by its successor. A generation that is newer than
ours comes from a former run: everything may have changed since, so all readable names are told.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Final

from agent.core.access import decide
from agent.serve.host.audit import Record
from agent.serve.http.responses import Answer, DeferredAnswer, Response, field, json_response

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from agent.core.access import Peer
    from agent.serve.http.responses import Said
    from agent.serve.http.target import Target
    from agent.serve.state import State
    from common.names import SecretName

DEFAULT_TIMEOUT_S: Final = 60.0
KEEP_ALIVE_S: Final = 15.0
"""How often an event stream carries a comment, so that a dead client is noticed."""


def answer(state: State, target: Target, peer: Peer, *, streams: bool) -> Said:
    """Wait for news after the generation that the caller knows, or open a stream of them.

    Raises:
        RequestError: a parameter is wrong.
    """
    target.allow("GET", "after", "timeout")
    after = target.whole("after")
    if after is None:
        after = _generation(state)
    seconds = target.seconds("timeout", DEFAULT_TIMEOUT_S, state.config.app.limits.watch_timeout)
    if streams:
        record = Record("served", 200, f"{target.path} event-stream", {}, _generation(state))
        response = Response(200, field("Content-Type", "text/event-stream"))
        return Answer(record, response, _events(state, peer, after))
    return DeferredAnswer(lambda: _poll(state, target.path, peer, after, seconds), for_listener=True)


async def _poll(state: State, path: str, peer: Peer, after: int, seconds: float) -> Answer:
    changed = await _news(state, peer, after, seconds)
    generation = _generation(state)
    if changed is None:
        record = Record("served", 204, path, {}, generation)
        return Answer(record, Response(204, field("Secrets-Generation", str(generation))))
    record = Record("served", 200, path, _versions(state, changed), generation)
    return Answer(record, json_response({"generation": generation, "changed": changed}))


async def _events(state: State, peer: Peer, after: int) -> AsyncGenerator[bytes, None]:
    """Yield server-sent events (WHATWG HTML, 9.2) until the agent stops."""
    while not state.stopping:
        changed = await _news(state, peer, after, KEEP_ALIVE_S)
        text = ": alive\n\n"
        if changed is not None:
            after = _generation(state)
            data = json.dumps({"generation": after, "changed": changed})
            text = f"event: changed\nid: {after}\ndata: {data}\n\n"
        yield text.encode()


async def _news(state: State, peer: Peer, after: int, seconds: float) -> list[SecretName] | None:
    """Return the names that changed after ``after``, or None when the time is up or the agent stops."""
    state.traffic.watchers += 1
    try:
        async with asyncio.timeout(seconds):
            while not state.stopping:
                published = state.store.next_publication()
                changed = _changed(state, peer, after)
                if changed is not None:
                    return changed
                await published.wait()
    except TimeoutError:
        pass
    finally:
        state.traffic.watchers -= 1
    return None


def _changed(state: State, peer: Peer, after: int) -> list[SecretName] | None:
    snapshot = state.store.snapshot
    if snapshot is None:
        return None
    if after > snapshot.generation:
        return sorted(n for n in snapshot.current if decide(peer, n, state.grants).allowed)
    changed = sorted(
        n for n, g in state.store.changed.items() if g > after and decide(peer, n, state.grants).allowed
    )
    return changed or None


def _generation(state: State) -> int:
    return state.store.snapshot.generation if state.store.snapshot else 0


def _versions(state: State, names: list[SecretName]) -> dict[str, str | None]:
    current = state.store.snapshot.current if state.store.snapshot else {}
    return {name: str(current[name].facts.version) if name in current else None for name in names}
