"""Waiting for a change: the long poll and the event stream of the app socket.

Only names that the caller may read, at the moment of the answer, wake it. An agent that stops ends all waits
as if their time was up: whoever asks again is answered by its successor. A generation that is newer than
ours comes from a former run: everything may have changed since, so all readable names are told.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Final

from aiohttp import web

from agent.core.access import decide
from agent.serve.audit import Record
from agent.serve.responses import CONTENT_TYPE, GENERATION, headers, json_response
from agent.serve.server import Answer

if TYPE_CHECKING:
    from agent.core.access import Peer
    from agent.core.secret import SecretName
    from agent.serve.connection import Connection
    from agent.serve.state import State
    from agent.serve.target import Target

DEFAULT_TIMEOUT_S: Final = 60.0
KEEP_ALIVE_S: Final = 15.0
"""How often an event stream carries a comment, so that a dead client is noticed."""


async def answer(state: State, target: Target, connection: Connection, *, streams: bool) -> Answer:
    """Wait for news after the generation that the caller knows, or open a stream of them.

    Raises:
        RequestError: a parameter is wrong.
    """
    target.allow("GET", "after", "timeout")
    peer = connection.peer
    assert peer is not None  # noqa: S101  # the door has refused such callers
    after = target.whole("after")
    if after is None:
        after = _generation(state)
    seconds = target.seconds("timeout", DEFAULT_TIMEOUT_S, state.config.app.limits.watch_timeout)
    if streams:
        record = Record("served", 200, f"{target.path} event-stream", {}, _generation(state))
        return Answer(record, stream=lambda request: _stream(state, connection, peer, after, request))
    state.traffic.watchers += 1
    try:
        changed = await _news(state, connection, peer, after, seconds)
    finally:
        state.traffic.watchers -= 1
    generation = _generation(state)
    if changed is None:
        record = Record("served", 204, target.path, {}, generation)
        more = headers((GENERATION, str(generation)))
        return Answer(record, web.Response(status=204, headers=more))
    record = Record("served", 200, target.path, _versions(state, changed), generation)
    return Answer(record, json_response({"generation": generation, "changed": changed}))


async def _news(
    state: State, connection: Connection, peer: Peer, after: int, seconds: float
) -> list[SecretName] | None:
    """Return the names that changed after ``after``, or None when the time is up or there is no use."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not (state.stopping or connection.gone.is_set()):
        published = state.store.next_publication()
        changed = _changed(state, peer, after)
        if changed is not None:
            return changed
        left = deadline - asyncio.get_running_loop().time()
        if left <= 0 or not await _first(left, published, connection.gone):
            return None
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


async def _first(seconds: float, *events: asyncio.Event) -> bool:
    """Wait until one of the events is set; False when the time is up."""
    tasks = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
    return bool(done)


async def _stream(
    state: State, connection: Connection, peer: Peer, after: int, request: web.BaseRequest
) -> web.StreamResponse:
    """Write server-sent events (WHATWG HTML, 9.2) until the caller has gone or the agent stops."""
    response = web.StreamResponse(headers=headers((CONTENT_TYPE, "text/event-stream")))
    response.force_close()
    await response.prepare(request)
    state.traffic.watchers += 1
    try:
        while not (state.stopping or connection.gone.is_set()):
            changed = await _news(state, connection, peer, after, KEEP_ALIVE_S)
            text = ": alive\n\n"
            if changed is not None:
                after = _generation(state)
                data = json.dumps({"generation": after, "changed": changed})
                text = f"event: changed\nid: {after}\ndata: {data}\n\n"
            await response.write(text.encode())
    except ConnectionError:
        pass
    finally:
        state.traffic.watchers -= 1
    return response


def _generation(state: State) -> int:
    return state.store.snapshot.generation if state.store.snapshot else 0


def _versions(state: State, names: list[SecretName]) -> dict[str, str | None]:
    current = state.store.snapshot.current if state.store.snapshot else {}
    return {name: str(current[name].facts.version) if name in current else None for name in names}
