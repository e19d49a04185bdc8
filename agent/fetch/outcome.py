"""What became of the versions that one cycle tried to read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from common import untrusted_json
from common.names import strip_prefix

if TYPE_CHECKING:
    from agent.core.rotation import Unread
    from agent.core.secret import SecretMetadata
    from common.names import Version


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Why a version was not read: for serve, and for people."""

    reason: Unread
    why: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of each version that was tried; ``notices`` are for people.

    ``listed`` tells whether Barbican gave the list of metadata, None where it was not asked for.
    """

    read: dict[Version, SecretMetadata] = field(default_factory=dict)
    payloads: dict[Version, bytes] = field(default_factory=dict, repr=False)
    unread: dict[Version, Unreadable] = field(default_factory=dict)
    listed: bool | None = None
    notices: tuple[str, ...] = ()


def misnamed(vps_id: str, untrusted_name: str) -> str:
    """Return why a secret is not read under another name than its own."""
    shown = untrusted_json.printable(untrusted_name, 100)
    if strip_prefix(vps_id, untrusted_name) is None:
        return f"its secret is named {shown}, which is no secret of this VPS: remove it"
    return f"its secret is named {shown}: list it under that name, or remove it"
