"""What the doors may look at: one object, written by the daemon and the keeper, read by everybody else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent.config import Config
    from agent.core.access import Grant
    from agent.serve.store import Store


@dataclass(slots=True)
class State:
    """The running agent. ``started`` is a moment on the boot clock (s).

    ``config`` and ``grants`` are replaced together when a reload succeeds; ``stopping`` is set once.
    """

    config: Config
    grants: tuple[Grant, ...]
    store: Store
    started: float
    stopping: bool = False
