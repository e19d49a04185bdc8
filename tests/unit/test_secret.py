"""agent/core/secret.py: names are strict, payloads stay inside."""

from __future__ import annotations

import copy
import json
import pickle
import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.secret import Secret, SecretMetadata, Snapshot, next_generation
from common.names import (
    MAX_K,
    SecretName,
    Version,
    entry_name,
    parse_entry_name,
    parse_name,
    parse_version,
    strip_prefix,
)

VERSION = Version("0b5a7c5e-2d0e-4c1c-9b0a-3f6f7d7d0b11")


def make(payload: bytes) -> Secret:
    """Return a secret over a payload of its own."""
    facts = SecretMetadata(
        SecretName("JWT"), VERSION, len(payload), "application/octet-stream", created=0.0, expires=None
    )
    return Secret(facts, memoryview(payload))


@pytest.mark.parametrize(
    "name",
    ["", ".a", "-a", "_a", "a/b", "a b", "a\0", "a\n", "é", "a" * 201, "../a", "a%2e"],
)
def test_what_is_not_a_name_is_refused(name: str) -> None:
    """Anything but the documented characters is refused before any look-up."""
    assert parse_name(name) is None


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}", fullmatch=True))
def test_what_is_a_name_is_kept_as_it_is(name: str) -> None:
    """A name is never changed on the way."""
    assert parse_name(name) == name
    assert strip_prefix("vps-1", f"vps-1/{name}") == name
    assert strip_prefix("vps-1", f"vps-10/{name}") is None


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}", fullmatch=True), st.integers(0, MAX_K))
def test_an_entry_has_one_name(name: str, k: int) -> None:
    """What is written is read again, and a secret's own name never has a K."""
    full = entry_name("vps-1", SecretName(name), k)
    assert parse_entry_name("vps-1", full) == (name, k)
    assert parse_entry_name("vps-10", full) is None
    assert strip_prefix("vps-1", full) == (name if k == 0 else None)


@pytest.mark.parametrize(
    "end",
    [
        *("~", "~0", "~00", "~01", "~+1", "~-1", "~1~2", "~x", "~1x", "~0x1", "~1_0", "~1.0", "~\u0661"),
        *("~1 ", "~ 1", "~1\n", "~" + "9" * 16, "~" + "9" * 5000),
    ],
)
def test_what_is_no_k_is_refused(end: str) -> None:
    """One number has one form, so that two entries are never the same one."""
    assert parse_entry_name("vps-1", "vps-1/A" + end) is None
    assert parse_entry_name("vps-1", "vps-1/" + end) is None


@pytest.mark.parametrize("k", [-1, MAX_K + 1])
def test_an_entry_that_nobody_would_read_is_not_written(k: int) -> None:
    """The agent would report it as not this VPS's."""
    with pytest.raises(ValueError, match="no entry"):
        entry_name("vps-1", SecretName("A"), k)
    assert parse_entry_name("vps-1", f"vps-1/A~{MAX_K}") == ("A", MAX_K)


def test_a_version_is_a_canonical_uuid() -> None:
    """Other spellings of the same UUID are refused: versions are compared as text."""
    assert parse_version(VERSION) == VERSION
    assert parse_version(VERSION.upper()) is None
    assert parse_version(VERSION.replace("-", "")) is None
    assert parse_version("x") is None


def test_a_secret_shows_no_payload() -> None:
    """Every way to turn a secret into text shows name and version only."""
    canary = secrets.token_hex(16)
    secret = make(canary.encode())
    shown = f"{secret} {secret!r} {secret!s} {[secret]} {secret:>10}"
    assert (canary in shown) is False
    assert "JWT" in shown


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, pickle.dumps, json.dumps])
def test_a_secret_refuses_to_be_copied_or_serialised(way: object) -> None:
    """Copies would outlive the wiping of the memory file."""
    assert callable(way)
    with pytest.raises(TypeError):
        way(make(b"x"))


def test_a_forgotten_secret_reveals_nothing() -> None:
    """After its owner gave up the view, a read fails instead of returning stale memory."""
    secret = make(b"x")
    assert secret.reveal() == b"x"
    secret.borrow().release()
    with pytest.raises(ValueError, match="released"):
        secret.reveal()


def test_a_snapshot_is_immutable() -> None:
    """The maps handed in are copied and can't be changed through the snapshot."""
    current = {SecretName("JWT"): make(b"x")}
    snapshot = Snapshot(generation=1, current=current, previous={})
    current.clear()
    assert snapshot.versions() == {"JWT": VERSION}
    with pytest.raises(TypeError):
        snapshot.current[SecretName("A")] = make(b"y")  # type: ignore[index]  # that it can't is the point


@pytest.mark.parametrize(
    ("former", "wall", "expected"),
    [
        (0, 1_800_000_000.123, 1_800_000_000_123),
        (1_800_000_000_123, 1_800_000_000.123, 1_800_000_000_124),  # twice in a millisecond
        (1_800_000_000_123, 5.0, 1_800_000_000_124),  # the clock was set back
        (1_800_000_000_123, 1_900_000_000.0, 1_900_000_000_000),
        (0, 0.0, 1),
    ],
)
def test_a_generation_grows_whatever_the_clock_says(former: int, wall: float, expected: int) -> None:
    """It is the time of its publication where that is more."""
    assert next_generation(former, wall) == expected
