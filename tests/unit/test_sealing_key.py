"""common/sealing_key.py: how VPS and deployment write a public key alike."""

from __future__ import annotations

import base64

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import sealing_key
from common.sealing_key import Announced

keys = st.binary(min_size=32, max_size=32)


def test_an_announcement_is_spelled_out() -> None:
    """So that no other program need read ours; its name is that of no other consumer of ours."""
    assert sealing_key.announcement_of(b"\0" * 32) == {
        "name": "vps-secrets-key",
        "URL": "urn:vps-secrets:x25519:" + "A" * 43,
    }


@given(keys)
def test_a_key_comes_back(key: bytes) -> None:
    """Byte for byte; the URL is one that Barbican takes (255 characters)."""
    consumer = sealing_key.announcement_of(key)
    assert sealing_key.announced_by(consumer["URL"]) == Announced(key)
    assert sealing_key.decoded(sealing_key.encoded(key)) == key
    assert len(consumer["URL"]) == 66


@given(st.binary(max_size=64).filter(lambda key: len(key) != 32))
def test_another_length_is_no_key(key: bytes) -> None:
    """Neither to announce nor to read."""
    with pytest.raises(ValueError, match="32 bytes"):
        sealing_key.announcement_of(key)
    text = base64.urlsafe_b64encode(key).decode().rstrip("=")
    assert sealing_key.announced_by("urn:vps-secrets:x25519:" + text) is None


@pytest.mark.parametrize(
    "url",
    [
        "",
        "A" * 43,
        "urn:vps-secrets:x25519:",
        "urn:vps-secrets:x25519:" + "A" * 43 + "=",
        "urn:vps-secrets:x25519:" + "A" * 42 + "B",  # bits left over: a second text for one key
        "urn:vps-secrets:x25519:" + "A" * 42 + "+",
        "urn:vps-secrets:x25519:" + "A" * 43 + "\n",
        "URN:vps-secrets:x25519:" + "A" * 43,
        "urn:vps-secrets:serves:" + "a" * 64,
    ],
)
def test_a_url_of_another_kind_is_no_key(url: str) -> None:
    """One text for one key: what differs in any character announces nothing."""
    assert sealing_key.announced_by(url) is None


@given(keys, keys, keys)
def test_what_is_said_of_other_keys_comes_back(key: bytes, after: bytes, former: bytes) -> None:
    """Each alone, and both; Barbican takes it."""
    for one in (Announced(key, after), Announced(key, b"", former), Announced(key, after, former)):
        url = one.consumer["URL"]
        assert sealing_key.announced_by(url) == one
        assert len(url) <= 255
        assert sealing_key.announced_by(f"{url}.") is None


@given(keys, keys, keys)
def test_only_the_key_that_was_said_comes_after(former: bytes, key: bytes, other: bytes) -> None:
    """Neither another key, nor the same one with another next one, nor without what was before it."""
    hypothesis.assume(len({former, key, other}) == 3)
    after = Announced(key, other, former)
    before = Announced(former, after.digest)
    assert after.succeeds(before.fingerprint)
    assert sealing_key.in_force(frozenset({before, after})) == {after}
    for wrong in (
        *(Announced(other, other, former), Announced(key, former, former), Announced(key, b"", former)),
        *(Announced(key, other), Announced(key, other, other), before),
    ):
        assert not wrong.succeeds(before.fingerprint)
        assert sealing_key.in_force(frozenset({before, wrong})) == {before, wrong}
    assert not after.succeeds(Announced(former).fingerprint), "a key that has said nothing"
