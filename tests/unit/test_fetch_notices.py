"""agent/fetch/notices.py: entries are named as they stand in the container, with the reason."""

from __future__ import annotations

import pytest

from agent.core.rotation import Entry, Unread
from agent.core.secret import SecretMetadata
from agent.fetch.barbican import Listing
from agent.fetch.notices import of_cycle
from agent.fetch.outcome import Outcome, Unreadable, misnamed
from common.names import SecretName, Version

VPS = "vps-1"
A, B = SecretName("A"), SecretName("B")
ONE, TWO = (Version(f"{digit * 8}-1111-4111-8111-111111111111") for digit in "12")


def test_what_was_not_read_is_named_with_its_k() -> None:
    """And so is an entry that names another secret's version."""
    facts = SecretMetadata(B, TWO, 1, "text/plain", 1.0, None)
    outcome = Outcome({TWO: facts}, {}, {ONE: Unreadable(Unread.ABSENT, "it is not there")})
    listing = Listing((Entry(A, ONE, 7), Entry(A, TWO, 8), Entry(B, TWO)), ())
    assert of_cycle(VPS, listing, outcome, token_bytes=0, skew=None, expiry="") == (
        "vps-1/A~7 was not read: it is not there",
        "vps-1/A~8 was not read: its secret is named vps-1/B: list it under that name, or remove it",
    )


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("vps-1/B", "list it under that name, or remove it"),
        ("vps-1/A~7", "which is no secret of this VPS: remove it"),
        ("vps-2/A", "which is no secret of this VPS: remove it"),
    ],
)
def test_a_name_under_which_it_could_not_be_listed_is_not_advised(name: str, advice: str) -> None:
    """A secret's own name never has a K."""
    assert misnamed(VPS, name).endswith(advice)
