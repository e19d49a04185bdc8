"""What starts and cycles cost on a real cloud."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Final

from deployer.cloud.secrets import generate_value
from lab.bench.processes import cpu
from lab.bench.results import Part
from lab.bench.system import System, first_answer
from lab.bench.tools import progress, wait
from lab.testbed.fakes.proxy import FaultProxy

if TYPE_CHECKING:
    from collections.abc import Callable

    from deployer.cloud.secrets import Vps
    from lab.testbed.cloud import Cloud

REFRESH_EVERY_S: Final = 1.05
"""At most one refresh a second is accepted."""
NAME: Final = "JWT_SECRET"
READ: Final = f"/v1/secrets/{NAME}"
OK, NOT_READY = 200, 503


class Parts:
    """Collects the values of parts over rounds, in the order in which they first came."""

    def __init__(self, whole: str, rest: str) -> None:
        self._whole: Final = whole
        self._rest: Final = rest
        self._values: dict[str, list[float]] = {whole: []}

    def add(self, whole: float, **parts: float) -> None:
        """Add one round (s): what the parts do not explain is the rest, which comes last."""
        self._values[self._whole].append(whole)
        for name, value in (parts | {self._rest: whole - sum(parts.values())}).items():
            self._values.setdefault(name, []).append(value)

    def all(self) -> list[Part]:
        """Return the whole and its parts."""
        (whole, values), *parts = self._values.items()
        return [Part(whole, "s", tuple(values))] + [Part(n, "s", tuple(v), of=whole) for n, v in parts]


def timings(system: System) -> dict[str, float]:
    """Return what the last cycle's fetch told of its own time (s)."""
    told = system.ask("/v1/status", control=True).json["cycles"]["timings"]
    return {f"fetch: {phase}": float(seconds) for phase, seconds in told.items()}


def start_of(system: System) -> dict[str, float]:
    """Return what the last start of serve spent before its first own statement (s)."""
    stamps = system.stamps()
    return {
        "serve: interpreter": stamps.started - stamps.exec,
        "serve: imports": stamps.imported - stamps.started,
    }


def ready(make: Callable[[], System], rounds: int) -> list[Part]:
    """Measure from exec to READY=1, with everything read for the first time."""
    parts = Parts("exec to ready, nothing kept", "serve: configuration, start of fetch, check, publish")
    for number in range(rounds):
        progress(f"exec to ready, {number + 1} of {rounds}")
        with make() as system:
            came = system.start().until_ready()
            if system.ask("/v1/health/ready").status != OK:
                raise SystemExit(f"bench: the agent is not ready\n{system.log()}")
            parts.add(came - system.stamps().exec, **start_of(system), **timings(system))
    return parts.all()


def refresh(system: System, cloud: Cloud, vps: Vps, rounds: int) -> list[Part]:
    """Measure from the request to refresh to the answer that a watching client gets, one new version each."""
    parts = Parts("refresh to a watching client told", "wake-up of the client")
    for number in range(rounds):
        progress(f"refresh to a watching client, {number + 1} of {rounds}")
        pause = time.monotonic() + REFRESH_EVERY_S
        cloud.deployment.rotate(vps, {NAME: generate_value(NAME)})
        after = system.ask("/v1/status", control=True).json["generation"]
        told: list[float] = []

        def watch(after: int = after, told: list[float] = told) -> None:
            system.ask(f"/v1/watch?after={after}&timeout=30")
            told.append(time.monotonic())

        watcher = threading.Thread(target=watch)
        watcher.start()
        wait(lambda: system.ask("/v1/status", control=True).json["watchers"] == 1, "a watcher", system.log)
        time.sleep(max(0.0, pause - time.monotonic()))
        began = time.monotonic()
        answer = system.ask("/v1/refresh", "POST", control=True)
        watcher.join()
        if answer.status != OK or answer.json["changed"] != [NAME]:
            raise SystemExit(f"bench: a refresh was answered with {answer.status}\n{system.log()}")
        phases = timings(system)
        cycle = answer.json["seconds"] - sum(phases.values())
        parts.add(told[0] - began, **phases, **{"serve: start of fetch, check, publish": cycle})
    return parts.all()


def quiet(make: Callable[[Callable[[str], str]], System], cloud: Cloud, rounds: int) -> list[Part]:
    """Measure what a cycle without news costs, with every request counted on its way to the services."""
    with contextlib.ExitStack() as stack:
        keystone = stack.enter_context(FaultProxy(cloud.auth_url))
        barbican = stack.enter_context(FaultProxy(cloud.testbed.places.barbican_url))

        def through(text: str) -> str:
            text = text.replace(cloud.auth_url, keystone.url)
            return text.replace("[app]", f'endpoint_override = "{barbican.url}"\n[app]', 1)

        system = stack.enter_context(make(through))
        system.start().until_ready()
        time.sleep(REFRESH_EVERY_S)
        before, calls, seconds = cpu(system.process.pid), [], []
        for number in range(rounds):
            progress(f"a quiet cycle, {number + 1} of {rounds}")
            keystone.seen.clear()
            barbican.seen.clear()
            answer = system.ask("/v1/refresh", "POST", control=True)
            if answer.status != OK or answer.json["changed"]:
                raise SystemExit(f"bench: a refresh was answered with {answer.status}\n{system.log()}")
            seconds.append(float(answer.json["seconds"]))
            calls.append(float(len(keystone.seen) + len(barbican.seen)))
            time.sleep(REFRESH_EVERY_S)
        after = cpu(system.process.pid)
    serve, fetch = ((after[i] - before[i]) / rounds for i in (0, 1))
    return [
        Part("a quiet cycle: calls to the cloud", "", tuple(calls)),
        Part("a quiet cycle: CPU of fetch", "s", (fetch,)),
        Part("a quiet cycle: CPU of serve", "s", (serve,)),
        Part("a quiet cycle: from start to end", "s", tuple(seconds)),
    ]


def restart(system: System, rounds: int) -> list[Part]:
    """Measure from exec to the answer for a client that waits at the socket; the cloud is away.

    Each round also starts it with nothing kept, when the answer is that there is nothing yet.
    """
    empty: list[float] = []
    rest = "serve: configuration, adoption, first answer"
    parts = Parts("exec to first answer, snapshot kept, no cloud", rest)
    for number in range(rounds):
        progress(f"a restart, {number + 1} of {rounds}")
        whole = _start_again(system, OK)
        parts.add(whole, **start_of(system))
        store, system.store = system.store, {}
        empty.append(_start_again(system, NOT_READY))
        system.kill()
        system.store = store
    return [*parts.all(), Part("exec to first answer (503), nothing kept, no cloud", "s", tuple(empty))]


def _start_again(system: System, wanted: int) -> float:
    system.kill()
    seconds, status = first_answer(system, READ)
    if status != wanted:
        raise SystemExit(f"bench: a restart answers {status}, not {wanted}\n{system.log()}")
    return seconds
