"""A VPS whose user was claimed and whose key never comes: the one who claimed it may not be the VPS.

Whoever has the user data can change the one-time password before the VPS does, and Keystone does not tell who
did. The VPS's own change fails then, so it registers no key. One that stays away is an alarm: its user is
shut out, and a person finds out. Nothing was made for it: nothing is made before there is a key.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from common import sealing_key
from deployer.cloud.errors import CloudError
from deployer.database import history
from deployer.kinds.kind import KindError

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from deployer.core.model import Observed
    from deployer.database.vpses import VpsRow
    from deployer.worker.means import Means
    from deployer.worker.registrar import Registrar

LOG: Final = logging.getLogger("deployer.worker")
JOINING: Final = "joining"
"""The state of a VPS that has not claimed its user."""
CLAIMED: Final = "account.claimed"
WITHIN_S: Final = 900.0
"""From the claim to the key; a VPS needs seconds, and goes on by itself when its cloud was away."""


def claimed(c: Connection, now: float, vps_id: str) -> None:
    """Write down that the user of a VPS was claimed."""
    history.note(c, now, "worker", CLAIMED, vps=vps_id)


def claimed_at(c: Connection, vps_id: str) -> float:
    """Return when the user of a VPS was claimed last; 0 where nobody knows."""
    return history.last(c, vps_id, CLAIMED) or 0.0


def without_former_keys(means: Means, row: VpsRow, observed: Observed) -> Observed:
    """Take the keys out that were there before the VPS's user was claimed; return what is there then.

    They are a former machine's, whose place another one takes: nothing more may be made for them. They were
    seen before the registrar is asked, so none of them is the new one's.
    """
    joins = row.wanted == "present" and row.state == JOINING
    if not (joins and observed.container and observed.keys) or means.registrar.claimed(row.id):
        return observed
    former = frozenset(url for url in observed.consumers if sealing_key.announced_by(url) is not None)
    for url in sorted(former):
        means.barbican.delete_consumer(row.id, observed.container, url)
        LOG.info("%s: took the key of its former machine out of its container", row.id)
    return replace(observed, consumers=observed.consumers - former)


def is_late(c: Connection, now: float, vps_id: str) -> bool:
    """Tell whether the key of a VPS, which has none, should have come."""
    at = claimed_at(c, vps_id)
    return at > 0 and now - at > WITHIN_S


def shut_out(registrar: Registrar, vps_id: str) -> KindError:
    """Disable the user of a VPS whose key has not come; return the alarm."""
    try:
        left = registrar.disable(vps_id)
        done = left or "its user is disabled"
    except CloudError as error:
        done = f"its user could not be disabled ({error})"
    words = (
        f"ALARM: claimed {WITHIN_S / 60:.0f} minutes ago, and no key has come: somebody else may have used "
        f"its user data; {done}. Look at vps-secrets-join there; retire this VPS and make another one"
    )
    return KindError("join", words, permanent=True)
