"""The tables, in Markdown, and the JSON of one run. No I/O."""

from __future__ import annotations

import statistics
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from lab.bench.results import AGENT, goals, percentile, ratios

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lab.bench.results import Goal, Memory, Part, Read, Results

BEGIN: Final = "<!-- make bench WRITE=1: begin -->"
END: Final = "<!-- make bench WRITE=1: end -->"
MANY: Final = 10
"""From how many values on a 99th percentile is told."""
ANSWERS: Final = {True: "yes", False: "**no**", None: "left out"}


def markdown(results: Results) -> str:
    """Return all tables of a run."""
    return "\n".join(_lines(results)) + "\n"


def replaced(document: str, text: str, marks: tuple[str, str] = (BEGIN, END)) -> str:
    """Return a document with a run's tables between its marks."""
    before, begin, rest = document.partition(marks[0])
    _, end, after = rest.partition(marks[1])
    if not begin or not end:
        raise SystemExit(f"bench: the document has no {marks[0]} and {marks[1]}")
    return f"{before}{begin}\n{text}{end}{after}"


def as_json(results: Results) -> dict[str, object]:
    """Return everything as plain lists and objects."""
    return {
        "machine": results.machine,
        "leftOut": results.left_out,
        "reads": {
            str(mode): {name: [asdict(one) for one in rounds] for name, rounds in reads.items()}
            for mode, reads in results.reads.items()
        },
        "memory": {name: asdict(one) for name, one in results.memory.items()},
        "memoryAfterLoad": {name: asdict(one) for name, one in results.memory_after.items()},
        "wakeupsPerMinute": results.wakeups,
        "parts": [asdict(part) for part in results.parts],
        "goals": [asdict(goal) for goal in goals(results)],
    }


def _lines(results: Results) -> Iterator[str]:
    yield "; ".join(f"{name}: {value}" for name, value in results.machine.items()) + "."
    for name, reason in results.left_out.items():
        yield f"\n**Left out: {name}.** {reason[:1].upper()}{reason[1:]}."
    yield from ("", "### Goals", "")
    yield from _goals(goals(results))
    for mode, reads in results.reads.items():
        yield from ("", f"### Reading one secret: {mode}", "")
        yield from _reads(reads)
    yield from ("", "### Memory (MiB) and idle wake-ups", "")
    yield from _memory(results)
    yield from ("", "### Starts and cycles", "")
    yield from _parts(results.parts)


def _goals(found: Sequence[Goal]) -> list[str]:
    head = ("goal", "wanted", "measured", "reached")
    return _table(head, [(one.text, one.wanted, one.measured, ANSWERS[one.reached]) for one in found])


def _reads(reads: dict[str, list[Read]]) -> list[str]:
    head = ("server", "reads/s", "least to most", "p50 µs", "p99 µs", "the agent's rate over it")
    order = sorted(reads, key=lambda name: -_median([one.rate for one in reads[name]]))
    return _table(head, [_read_row(reads, name) for name in order])


def _read_row(reads: dict[str, list[Read]], name: str) -> tuple[str, ...]:
    rounds = reads[name]
    rates = [one.rate for one in rounds]
    p50, p99 = (_median([getattr(one, key) * 1e6 for one in rounds]) for key in ("p50", "p99"))
    times = _median(ratios(reads, AGENT, name) or [1.0])
    return (
        f"**{name}**" if name == AGENT else name,
        f"{_median(rates):,.0f}",
        f"{min(rates):,.0f} to {max(rates):,.0f}",
        f"{p50:,.0f}",
        f"{p99:,.0f}",
        "" if name == AGENT else f"{times:.2f}",
    )


def _memory(results: Results) -> list[str]:
    head = (
        "server",
        "resident",
        "proportional",
        "anonymous",
        "after load: resident",
        "anonymous",
        "wake-ups/min",
    )
    rows = []
    for name, memory in results.memory.items():
        after = results.memory_after.get(name)
        wakeups = results.wakeups.get(name)
        told = "" if wakeups is None else f"{wakeups:,.0f}"
        rows.append((name, *_mib(memory), *(_mib(after)[::2] if after else ("", "")), told))
    return _table(head, rows)


def _mib(memory: Memory) -> tuple[str, ...]:
    values = (memory.resident, memory.proportional, memory.anonymous)
    return tuple("root only" if value is None else f"{value:.1f}" for value in values)


def _parts(parts: Sequence[Part]) -> list[str]:
    head = ("", "median", "p99", "least to most", "times")
    return _table(head, [_part_row(part) for part in parts])


def _part_row(part: Part) -> tuple[str, ...]:
    def told(value: float) -> str:
        return f"{value * 1e3:,.1f} ms" if part.unit == "s" else f"{value:g}"

    values = part.values
    return (
        f"· {part.name}" if part.of else part.name,
        told(_median(values)),
        told(percentile(values, 0.99)) if len(values) >= MANY else "",
        f"{told(min(values))} to {told(max(values))}" if len(values) > 1 else "",
        str(len(values)) if len(values) > 1 else "",
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a Markdown table whose columns also align for who reads it as text."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        padded = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
        return f"| {' | '.join(padded)} |"

    rule = [widths[0] * "-", *((width - 1) * "-" + ":" for width in widths[1:])]
    return [line(head), line(rule), *(line(row) for row in rows)]


def _median(values: Sequence[float]) -> float:
    return statistics.median(values)
