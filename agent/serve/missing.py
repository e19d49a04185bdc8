"""Sockets that systemd should have handed over and has not: their units have failed, or are off.

The agent serves on those that are there, and makes none itself: where systemd makes the sockets, it may not
write their directory, and an agent that ends because of one would take the others away too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agent.serve.endpoints import app, control, credentials

if TYPE_CHECKING:
    from collections.abc import Container

DOORS: Final = (app.NAME, control.NAME, credentials.NAME)
"""What systemd hands over, by FileDescriptorName=."""


def missing(handed_over: Container[str]) -> tuple[str, ...]:
    """Return the names of the sockets that are missing; where there are none at all, none is expected."""
    absent = tuple(name for name in DOORS if name not in handed_over)
    return () if absent == DOORS else absent


def advice(name: str) -> str:
    """Return what is wrong and what an operator can do, in one line."""
    unit = f"vps-secrets-{name}.socket"
    return (
        f"{name}.sock is missing, its unit has failed or is off: systemctl status {unit} says why; "
        f"fix that, then systemctl restart {unit}"
    )
