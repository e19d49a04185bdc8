"""What cloud verify found, in words and as JSON. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How bad a finding is."""

    FAULT = "fault"
    """A promise is broken: act."""
    WEAKNESS = "weakness"
    """A known hole of this release, open to whoever stole a credential: ask for a newer one."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One operation, tried by one actor; ``expected`` are the statuses of HTTP that keep the promise."""

    operation: str
    actor: str
    status: int
    expected: tuple[int, ...]

    @property
    def good(self) -> bool:
        """Whether it came out as promised."""
        return self.status in self.expected


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong: ``kind`` for programs, ``words`` for people, with what to do."""

    kind: str
    words: str
    severity: Severity = Severity.FAULT


@dataclass(frozen=True, slots=True)
class Report:
    """All of it. ``left_out`` says what could not be looked at, and why; ``untold`` what can't be."""

    cells: tuple[Cell, ...]
    findings: tuple[Finding, ...]
    left_out: tuple[str, ...]
    looked_at: dict[str, int]
    """How many of what was looked at, such as ACLs."""
    untold: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        """Whether no promise is broken."""
        return all(finding.severity is not Severity.FAULT for finding in self.findings)

    def json(self) -> dict[str, object]:
        """Return it as JSON's types."""
        return {
            "good": self.good,
            "cells": [asdict(cell) | {"good": cell.good} for cell in self.cells],
            "findings": [asdict(finding) for finding in self.findings],
            "leftOut": list(self.left_out),
            "lookedAt": self.looked_at,
            "untold": list(self.untold),
        }

    def words(self) -> str:
        """Return it as a table of the matrix, what is wrong, and what was left out."""
        actors = list(dict.fromkeys(cell.actor for cell in self.cells))
        width = max([len(cell.operation) for cell in self.cells], default=0)
        lines = [" " * width + "".join(f" | {actor:>12}" for actor in actors)]
        found = {(cell.operation, cell.actor): cell for cell in self.cells}
        lines += [
            f"{operation:<{width}}" + "".join(_shown(found.get((operation, actor))) for actor in actors)
            for operation in dict.fromkeys(cell.operation for cell in self.cells)
        ]
        lines += ["", *(f"{finding.severity}: {finding.words}" for finding in self.findings)]
        lines += [f"not looked at: {what}" for what in self.left_out]
        lines += [f"can't be told from here: {what}" for what in self.untold]
        lines.append(", ".join(f"{number} {what}" for what, number in self.looked_at.items()) + " looked at")
        lines.append("every promise is kept" if self.good else "A PROMISE IS BROKEN: see above")
        return "\n".join(lines)


def _shown(cell: Cell | None) -> str:
    if cell is None:
        return f" | {'-':>12}"
    return f" | {cell.status if cell.good else f'{cell.status} WRONG':>12}"
