"""Making one version: the only place of the deployer that holds a value, from its kind to Barbican.

Order (docs/provisioning.md): an empty secret; its ACL, before there is anything to read; the payload; the
third party takes the value and proves it; the marks, last. What breaks off before the marks is rubbish that
nobody lists: the value is lost on purpose, and the next attempt makes another one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from common import sealed
from common.sealed import Header, SealError
from deployer.kinds.kind import KindError

if TYPE_CHECKING:
    from collections.abc import Callable

    from common.names import Version
    from deployer.cloud.barbican import Barbican
    from deployer.core.model import Make
    from deployer.kinds.kind import Facts, Kind
    from deployer.kinds.value import Value


class Made(NamedTuple):
    """A version that is ready to be listed, and what of its value everybody may know (a public key)."""

    version: Version
    public: str | None


def make(  # noqa: PLR0917  # what it takes
    barbican: Barbican, kind: Kind, facts: Facts, step: Make, user_id: str, hold: Callable[[], None]
) -> Made:
    """Make a version that ``user_id`` may read. ``facts.version`` is not known yet.

    ``hold`` raises where the VPS is another worker's by now: no third party is to take this value then.

    Raises:
        KindError: the value can't be made or sealed, or the third party does not take it.
        CloudError: Barbican refused a call.
    """
    kind.preflight(facts)
    header = _header(facts, step)
    version = barbican.create_secret(facts.vps_id, facts.name)
    barbican.grant_secret(version, user_id)
    facts = replace(facts, version=version)
    with kind.make(facts) as value:
        public = kind.public(facts, value)
        if header is not None and value.size > sealed.most_bytes(header):
            barbican.delete_secret(version)  # it would be tried again and again, and leave one each time
            raise too_long(value, header)
        with value.reveal() as payload:
            barbican.write_payload(version, payload if step.seal is None else _sealed(payload, step, header))
        hold()
        kind.apply(facts, value)
        kind.test(facts, value)
    barbican.mark(version, step.marks)
    return Made(version, public)


def too_long(value: Value, header: Header) -> KindError:
    """Return why a value can't be sealed."""
    reason = (
        f"it has {value.size} bytes, and {sealed.most_bytes(header)} are the most that can be sealed for it"
    )
    return KindError("seal the value", reason, permanent=True)


def _header(facts: Facts, step: Make) -> Header | None:
    if step.seal is None:
        return None
    return Header(facts.vps_id, facts.name, step.marks.sequence, step.seal.floor, step.seal.keep_s)


def _sealed(payload: memoryview, step: Make, header: Header | None) -> bytes:
    from common import sealing  # noqa: PLC0415  # only where it is needed

    assert step.seal is not None  # noqa: S101  # the caller looked
    assert header is not None  # noqa: S101  # it follows from that
    reason = ""
    try:
        return sealing.seal(payload, step.seal.key, header)
    except SealError as error:
        reason = str(error)
    raise KindError("seal the value", reason, permanent=True)
