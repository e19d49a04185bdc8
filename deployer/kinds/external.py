"""The kind ``external``: a person or a portal gives the value; it waits in memory until it is stored.

Nothing of ours can make another one, so a value that is lost (this process ends before Barbican has it) is
given again by whoever has it: the answer to them says so until then.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from common.limits import MAX_PAYLOAD
from deployer.kinds.kind import KindError, NoThirdParty

if TYPE_CHECKING:
    from common.names import SecretName
    from deployer.kinds.kind import Facts
    from deployer.kinds.value import Value

MAX_WAITING: Final = 1000
"""Values that may wait at a time: at most 64 MB, and far more than two workers leave behind."""


class External(NoThirdParty):
    """Owns the values that wait, one for each VPS and name: the last one given."""

    name = "external"

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[tuple[str, SecretName], Value] = {}

    def give(self, vps_id: str, name: SecretName, value: Value) -> None:
        """Let a value wait; it belongs to this kind from now on, also where it is refused.

        Raises:
            KindError: it is empty or too large, or too many wait.
        """
        with self._lock:
            former = self._waiting.pop((vps_id, name), None)
            reason = ""
            if not 0 < value.size <= MAX_PAYLOAD:
                reason = f"a value must have 1 to {MAX_PAYLOAD} bytes"
            elif len(self._waiting) >= MAX_WAITING:
                reason = f"{MAX_WAITING} values wait already; give it again later"
            else:
                self._waiting[vps_id, name] = value
        if former is not None:
            former.close()
        if reason:
            value.close()
            raise KindError("give", reason, permanent=value.size > MAX_PAYLOAD or not value.size)

    def waits(self, vps_id: str, name: SecretName) -> bool:
        """Return whether a value waits to be stored."""
        with self._lock:
            return (vps_id, name) in self._waiting

    def withdraw(self, vps_id: str, name: SecretName) -> None:
        """Wipe a value that still waits: whoever gave it is told that it was not stored."""
        with self._lock:
            value = self._waiting.pop((vps_id, name), None)
        if value is not None:
            value.close()

    def make(self, facts: Facts) -> Value:
        """Return the value that waits; from now on it is the caller's."""
        with self._lock:
            value = self._waiting.pop((facts.vps_id, facts.name), None)
        if value is None:
            raise KindError("make", "nobody has given its value yet; PUT it, or use: vps-secrets-deploy set")
        return value
