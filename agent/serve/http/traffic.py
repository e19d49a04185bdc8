"""What the sockets count, for the metrics and the status."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Traffic:
    """What the doors count. ``requests`` by (door, outcome), ``connections`` open now by door.

    ``unrecorded`` by door: requests that were refused because their record could not be written.
    """

    requests: Counter[tuple[str, str]] = field(default_factory=Counter)
    connections: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    unrecorded: Counter[str] = field(default_factory=Counter)
    watchers: int = 0
