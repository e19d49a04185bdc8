"""What an operator should know of a good cycle: what was not read and why, and which bound was reached.

No bound is silent: where one cuts something off, a notice says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.core.wire import MAX_NOTICES, MAX_TOKEN_STATE
from agent.core.wire_fields import FAILURE_CHARACTERS
from agent.fetch.outcome import misnamed
from agent.fetch.verdict import clock_hint
from common import untrusted_json
from common.names import entry_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from agent.fetch.barbican import Listing
    from agent.fetch.outcome import Outcome


def bounded(texts: Sequence[str]) -> tuple[str, ...]:
    """Return as many as the wire takes; the last then says how many more there are."""
    if len(texts) <= MAX_NOTICES:
        return tuple(texts)
    return (*texts[: MAX_NOTICES - 1], f"({len(texts) - MAX_NOTICES + 1} more)")


def of_cycle(
    vps_id: str,
    listing: Listing | None,
    outcome: Outcome | None,
    *,
    token_bytes: int,
    skew: float | None,
    expiry: str,
) -> tuple[str, ...]:
    """Return the notices of a cycle; ``listing`` and ``outcome`` as far as it came.

    ``skew`` is how far (s) the services' clock is ahead of this machine's, None where it is not known;
    ``expiry`` why it was not learned when the credential expires.
    """
    found = [*_unread(vps_id, listing, outcome), *(outcome.notices if outcome else ())]
    if hint := clock_hint(skew):
        found.append(f"the cycle was good{hint}")
    if expiry:
        found.append(
            f"it is not known when the credential expires, so no warning may come before it: {expiry}"
        )
    if token_bytes > MAX_TOKEN_STATE:
        found.append(
            f"the token is too long to be kept ({token_bytes} bytes, at most {MAX_TOKEN_STATE}), so every "
            "cycle logs in: ask the cloud for shorter ones"
        )
    return bounded([untrusted_json.printable(text, FAILURE_CHARACTERS) for text in found])


def _unread(vps_id: str, listing: Listing | None, outcome: Outcome | None) -> Iterator[str]:
    """Tell for each entry whose version was tried and not taken for it, why."""
    if listing is None or outcome is None:
        return
    for entry in listing.entries:
        shown = entry_name(vps_id, entry.name, entry.k)
        read = outcome.read.get(entry.version)
        if entry.version in outcome.unread:
            yield f"{shown} was not read: {outcome.unread[entry.version].why}"
        elif read is not None and read.name != entry.name:
            yield f"{shown} was not read: {misnamed(vps_id, f'{vps_id}/{read.name}')}"
