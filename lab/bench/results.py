"""What a run found, and what follows from it: medians, ratios, goals. No I/O."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

AGENT: Final = "agent"
BAO_TOKEN, BAO_KV = "OpenBao agent, cached token", "OpenBao agent, KV secret"
BAO, FLOOR, IMPORT = "OpenBao agent", "aiohttp floor", "bare import of aiohttp.web"


@dataclass(frozen=True)
class Mode:
    """A way of reading: ``clients`` at once, on kept connections or with one for each read."""

    keepalive: bool
    clients: int

    def __str__(self) -> str:
        how = "kept alive" if self.keepalive else "connect + read + close"
        return f"{how}, {self.clients} client{'s' if self.clients > 1 else ''}"


MODES: Final = tuple(Mode(keepalive, clients) for keepalive in (True, False) for clients in (1, 8))


@dataclass(frozen=True)
class Read:
    """One round of one target: requests a second, and latencies in seconds."""

    rate: float
    p50: float
    p99: float


@dataclass(frozen=True)
class Memory:
    """MiB of all processes of a server. Only root sees more than what is resident of the agent."""

    resident: float
    proportional: float | None
    anonymous: float | None


@dataclass(frozen=True)
class Part:
    """A duration or a cost. Parts ``of`` another name add up to it."""

    name: str
    unit: str
    values: tuple[float, ...]
    of: str = ""


@dataclass
class Results:
    """Everything that one run found."""

    machine: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    reads: dict[Mode, dict[str, list[Read]]] = field(default_factory=dict)
    memory: dict[str, Memory] = field(default_factory=dict)
    memory_after: dict[str, Memory] = field(default_factory=dict)
    """After the load of all rounds."""
    wakeups: dict[str, float] = field(default_factory=dict)
    """Voluntary context switches a minute."""
    parts: list[Part] = field(default_factory=list)


@dataclass(frozen=True)
class Goal:
    """What was wanted and what came. ``reached`` is None where a peer was left out."""

    text: str
    wanted: str
    measured: str
    reached: bool | None


def percentile(values: Sequence[float], share: float) -> float:
    """Return the least value that at least ``share`` of all values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


def ratios(reads: dict[str, list[Read]], one: str, other: str) -> list[float] | None:
    """Return how many times the rate of ``other`` the rate of ``one`` is, within each round."""
    if one not in reads or other not in reads:
        return None
    return [a.rate / b.rate for a, b in zip(reads[one], reads[other], strict=True)]


def goals(results: Results) -> list[Goal]:
    """Return the goals of the project, as far as they are figures of this benchmark."""
    found = []
    for mode, reads in results.reads.items():
        if mode.keepalive:
            found.append(_faster(mode, reads, BAO_KV, 5.0))
        found.append(_faster(mode, reads, BAO_TOKEN, 1.0))
        found.append(_faster(mode, reads, FLOOR, 0.6))
    memory = {name: one.resident for name, one in results.memory.items()}
    found.append(_smaller(memory, BAO, 0.6))
    found.append(_smaller(memory, IMPORT, 1.25))
    if AGENT in results.wakeups:
        wakeups = results.wakeups[AGENT]
        found.append(Goal("idle wake-ups a minute", "0", f"{wakeups:g}", wakeups == 0))
    return found


def _faster(mode: Mode, reads: dict[str, list[Read]], other: str, wanted: float) -> Goal:
    text, least = f"{mode}: rate over {other}'s", f"at least {wanted:g} times"
    found = ratios(reads, AGENT, other)
    if found is None:
        return Goal(text, least, "left out", None)
    median = statistics.median(found)
    return Goal(text, least, f"{median:.2f} times", median >= wanted)


def _smaller(memory: dict[str, float], other: str, wanted: float) -> Goal:
    text, most = f"resident memory over {other}'s", f"at most {wanted:g} times"
    if AGENT not in memory or other not in memory:
        return Goal(text, most, "left out", None)
    ratio = memory[AGENT] / memory[other]
    return Goal(text, most, f"{ratio:.2f} times", ratio <= wanted)
