"""Waiting for a change: the long poll and the event stream of the app socket.

Only names that the caller may read, at the moment of the answer, wake it; so does a grant that covers names
that it could not read before. An agent that stops ends all waits as if their time was up: whoever asks again
is answered by its successor. A generation from before all that is known comes from a former run: everything
may have changed since, so all readable names are listed. So are they for one that is yet to come, which is
answered after a moment: a client that does not use the generation that it is given must not keep the agent
busy.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Final, NamedTuple

from agent.core.access import decide
from agent.serve.host.audit import Record
from agent.serve.http.responses import Answer, DeferredAnswer, Response, field, json_response
from agent.serve.http.target import whole

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from agent.core.access import Peer
    from agent.core.http import Request
    from agent.serve.http.responses import Said
    from agent.serve.http.target import Target
    from agent.serve.state import State
    from common.names import SecretName

DEFAULT_TIMEOUT_S: Final = 60.0
KEEP_ALIVE_S: Final = 15.0
"""How often an event stream carries a comment, so that a dead client is noticed."""
AHEAD_S: Final = 1.0
"""How long a generation that is yet to come is waited for before the client is given the one there is."""


class News(NamedTuple):
    """What has changed since a generation, up to another one; ``names`` is None where nothing has."""

    generation: int
    names: list[SecretName] | None


def answer(state: State, target: Target, request: Request, peer: Peer) -> Said:
    """Wait for news after the generation that the caller knows, or open a stream of them.

    Raises:
        RequestError: a parameter is wrong.
    """
    target.allow("GET", "after", "timeout")
    streams = "text/event-stream" in request.fields.get("accept", "")
    after = target.whole("after")
    if streams and (latest := request.fields.get("last-event-id")):
        # a client that connects again repeats the parameter of its first time, and says here what came since
        after = whole("Last-Event-ID", latest)
    if after is None:
        after = _generation(state)
    seconds = target.seconds("timeout", DEFAULT_TIMEOUT_S, state.config.app.limits.watch_timeout)
    if streams:
        record = Record("served", 200, f"{target.path} event-stream", {}, _generation(state))
        response = Response(200, field("Content-Type", "text/event-stream"))
        return Answer(record, response, _events(state, peer, after))
    return DeferredAnswer(lambda: _poll(state, target.path, peer, after, seconds), for_listener=True)


async def _poll(state: State, path: str, peer: Peer, after: int, seconds: float) -> Answer:
    generation, changed = await _news(state, peer, after, seconds)
    if changed is None:
        record = Record("served", 204, path, {}, generation)
        return Answer(record, Response(204, field("Secrets-Generation", str(generation))))
    record = Record("served", 200, path, _versions(state, changed), generation)
    return Answer(record, json_response({"generation": generation, "changed": changed}))


async def _events(state: State, peer: Peer, after: int) -> AsyncGenerator[bytes, None]:
    """Yield server-sent events (WHATWG HTML, 9.2) until the agent stops, or its grants are others.

    The first has an id only, which a client keeps although it is no event for it: so one that connects again
    before anything has changed says since when.
    """
    yield f"id: {after}\n\n".encode()
    grants = state.grants
    while not state.stopping and state.grants is grants:  # after a reload the caller is looked at anew
        news = await _news(state, peer, after, KEEP_ALIVE_S)
        text = ": alive\n\n"
        if news.names is not None:
            after = news.generation
            data = json.dumps({"generation": after, "changed": news.names})
            text = f"event: changed\nid: {after}\ndata: {data}\n\n"
        yield text.encode()


async def _news(state: State, peer: Peer, after: int, seconds: float) -> News:
    """Wait for names that changed after ``after``, until the time is up or the agent stops."""
    state.traffic.watchers += 1
    grants = state.grants
    ahead = after > _generation(state) and state.store.snapshot is not None
    try:
        async with asyncio.timeout(min(seconds, AHEAD_S) if ahead else seconds):
            while not state.stopping:
                published = state.store.next_publication()
                news = _changed(state, peer, after)
                if news.names is not None:
                    return news
                if granted := [n for n in _readable(state, peer) if not decide(peer, n, grants).allowed]:
                    return News(news.generation, granted)
                await published.wait()
    except TimeoutError:
        pass
    finally:
        state.traffic.watchers -= 1
    if ahead and after > _generation(state):
        return News(_generation(state), _readable(state, peer))
    return _changed(state, peer, after)  # a publication may have come with the end of the time


def _changed(state: State, peer: Peer, after: int) -> News:
    store, generation = state.store, _generation(state)
    if store.snapshot is None:
        return News(generation, None)
    names = [n for n, g in store.changed.items() if g > after and decide(peer, n, state.grants).allowed]
    from_before = after < min(store.changed.values(), default=generation)
    return News(generation, sorted(names) if names or from_before else None)


def _readable(state: State, peer: Peer) -> list[SecretName]:
    current = state.store.snapshot.current if state.store.snapshot else {}
    return sorted(name for name in current if decide(peer, name, state.grants).allowed)


def _generation(state: State) -> int:
    return state.store.snapshot.generation if state.store.snapshot else 0


def _versions(state: State, names: list[SecretName]) -> dict[str, str | None]:
    current = state.store.snapshot.current if state.store.snapshot else {}
    return {name: str(current[name].facts.version) if name in current else None for name in names}
