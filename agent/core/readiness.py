"""Ready: whether the application can rely on what is served. One definition, for every surface.

Ready means that at least one value is held, that access to the secrets is not taken away, that Barbican has
confirmed them within ``max_stale``, and that reads can be recorded: without a record no value is given out.
A listed secret without a value does not make the agent unready for an application that needs the others: it
is *pending*, and every surface names it (docs/adr/0021).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Holding:
    """What decides it.

    ``read``: a reading of Barbican has ended well, or a former process left one. ``held``, ``pending``,
    ``rejected``: how many values are held, how many listed secrets have none, how many entries of the
    container are another VPS's. ``denied``: access is taken away. ``outlived``: ``max_stale`` has passed.
    ``failure``: why the last cycle failed, ``unrecorded``: why no audit record can be written, in one line.
    """

    read: bool
    held: int
    pending: int
    rejected: int
    denied: bool
    outlived: bool
    failure: str | None
    unrecorded: str | None


def why_not_ready(holding: Holding) -> str | None:
    """Return in one line why the agent is not ready, or None when it is."""
    because = f": {holding.failure}" if holding.failure else ""
    if not holding.read:
        return holding.failure or "the first reading of Barbican is under way"
    if holding.denied:
        what = "what is held is served until its grace ends" if holding.held else "nothing is held any more"
        return f"access to the secrets is taken away, {what}{because}"
    if not holding.held:
        return _why_nothing(holding) + because
    if holding.outlived:
        return f"Barbican has not confirmed the secrets for longer than max_stale{because}"
    return holding.unrecorded


def _why_nothing(holding: Holding) -> str:
    if holding.pending:
        return f"no value is held: {holding.pending} listed, none of them readable; status names them"
    if holding.rejected:
        return (
            f"no value is held: the container lists no secret of this VPS, but {holding.rejected} of others: "
            "check vps_id and container"
        )
    return "no value is held: the container lists no secret of this VPS"
