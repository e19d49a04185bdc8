"""The agent killed again and again while a pair of secrets rotates: what must hold, and the loop."""

from __future__ import annotations

import contextlib
import http.client
import random
import threading
from typing import TYPE_CHECKING

from lab.testbed.running import ask
from tests.scenarios.reader import CUT_OFF, Reader
from tests.scenarios.scenario import Scenario

if TYPE_CHECKING:
    from lab.testbed.cloud import Cloud
    from lab.testbed.running import Response

PAIR = ("USER", "PASSWORD")
OTHERS = {"JWT_SECRET": b"never changes", "SMTP_PASSWORD": b"neither"}
FACTOR = 4.0
"""So that a rotation, which takes real time, stays far below the 60 s after which it counts as left half."""

ROTATIONS = 5
"""At least so many, however slow the machine is."""


class Witness:
    """Objects to whatever an application must never see. Values are the numbers of their rotation."""

    def __init__(self) -> None:
        self.rotation = 0
        """The last one that has begun."""
        self._newest: dict[tuple[int, str], int] = {}

    def __call__(self, what: str, answer: Response) -> None:
        """Look at one answer."""
        values = answer.json["secrets"] if what == "bundle" else {what: answer.body.decode()}
        for name, value in OTHERS.items():
            assert values.get(name, value.decode()) == value.decode(), f"{name} is wrong"
        numbers = {name: int(values[name]) for name in PAIR if name in values}
        assert what != "bundle" or len(numbers) == len(PAIR), "a bundle lost a name"
        assert len(set(numbers.values())) <= 1, f"a bundle has values of two rotations: {numbers}"
        for name, number in numbers.items():
            key = (threading.get_ident(), name)
            newest = self._newest.get(key, 0)
            assert newest <= number <= self.rotation, f"{name} went from {newest} to {number}"
            self._newest[key] = number
        generation = int(answer.headers["secrets-generation"])
        key = (threading.get_ident(), "generation")
        assert generation >= self._newest.get(key, 0), "the generation went back"
        self._newest[key] = generation


def play(cloud: Cloud, kills: int, seed: int) -> dict[str, float]:
    """Kill ``kills`` processes of serve and fetch at random moments; return what was counted."""
    witness, over, chance = (
        Witness(),
        threading.Event(),
        random.Random(seed),
    )  # to be repeated, not to be secret
    values = dict.fromkeys(PAIR, b"0") | OTHERS
    with Scenario(cloud, f"kills-{kills}", values, factor=FACTOR, seen=witness) as day:
        day.start()
        assert day.status()["memory"]["kept"], "without a memory that is kept there is nothing to prove"
        second = Reader(day.machine.app, PAIR, day.now, witness)
        second.start()
        helpers = [
            threading.Thread(target=work, args=(day, witness, over), daemon=True)
            for work in (_rotate, _cycle)
        ]
        for helper in helpers:
            helper.start()
        counted = dict.fromkeys(("serve", "fetch", "serve in a cycle"), 0.0)
        try:
            while counted["serve"] + counted["fetch"] < kills or witness.rotation < ROTATIONS:
                day.pause(chance.uniform(0.0, 0.5))
                _kill(day, chance.choice(("serve", "serve", "fetch", "both")), counted)
        finally:
            over.set()
            for helper in helpers:
                helper.join()
        last = str(witness.rotation).encode()
        day.until(lambda: day.refresh().status == 200 and day.holds(dict.fromkeys(PAIR, last) | OTHERS))
        second.stop()
        day.reader.stop()
        assert day.reader.wrong + second.wrong == []
        gaps = day.reader.gaps + second.gaps
        assert {gap.gap for gap in gaps} <= {CUT_OFF}, "a value that was served is lost"
        assert len(gaps) <= 2 * counted["serve"], (
            "more than the requests that a killed agent had in its hands"
        )
        return counted | {
            "rotations": witness.rotation,
            "generations": len({read.generation for read in day.reader.reads if read.generation}),
            "reads": len(day.reader.reads) + len(second.reads),
            "cut off": len(gaps),
            "longest wait s": round(max(read.took for read in day.reader.reads), 3),
        }


def _kill(day: Scenario, whom: str, counted: dict[str, float]) -> None:
    """Kill, and wait until a killed serve has a successor."""
    machine, started = day.machine, day.machine.started["serve"]
    # SIGCONT does nothing to a process that runs, but tells whether there is one
    in_cycle = machine.send("CONT" if whom == "serve" else "KILL", "fetch")
    if whom != "serve":
        counted["fetch"] += in_cycle
    if whom in {"serve", "both"}:
        counted["serve"] += machine.send("KILL", "serve")
        counted["serve in a cycle"] += min(1, in_cycle)
        day.until(lambda: machine.started["serve"] > started)


def _rotate(day: Scenario, witness: Witness, over: threading.Event) -> None:
    """Rotate the pair, again and again, with a pause wherever the container lists half of it."""
    while not over.wait(0.4):
        witness.rotation += 1
        values = dict.fromkeys(PAIR, str(witness.rotation).encode())
        for step in day.cloud.deployment.rotation_steps(day.vps, values):
            if step.startswith(("added", "removed")):
                day.pause(0.15)


def _cycle(day: Scenario, _: Witness, over: threading.Event) -> None:
    """Ask for one cycle after the other."""
    while not over.wait(0.05):
        with contextlib.suppress(OSError, http.client.HTTPException):
            ask(day.machine.control, "POST", "/v1/refresh")
