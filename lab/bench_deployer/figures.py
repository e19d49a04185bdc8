"""Figures: what was measured, beside what it may be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure with its unit. ``most``, ``least``: what it may be; None where nothing was promised."""

    what: str
    value: float
    unit: str
    most: float | None = None
    least: float | None = None

    @property
    def holds(self) -> bool:
        """Whether what was promised is kept."""
        return (self.most is None or self.value <= self.most) and (
            self.least is None or self.value >= self.least
        )

    @property
    def promise(self) -> str:
        """What was promised, in words; nothing where nothing was."""
        if self.most is not None:
            return f"at most {self.most:g}"
        return "" if self.least is None else f"at least {self.least:g}"

    def __str__(self) -> str:
        """One line of the report."""
        missed = "" if self.holds else ": MISSED"
        promised = f"   ({self.promise}{missed})" if self.promise else ""
        return f"{self.what:<72}{self.value:>12,.2f} {self.unit}{promised}"


def table(figures: Iterable[Figure]) -> str:
    """Return the figures in Markdown."""
    rows = [
        " ".join(f"| {one.what} | {one.value:,.2f} {one.unit} | {one.promise}{_missed(one)} |".split())
        for one in figures
    ]
    return "\n".join(["| | | promised |", "|---|---|---|", *rows]) + "\n"


def _missed(one: Figure) -> str:
    return "" if one.holds else ": **missed**"
