"""agent/identity: what its files hold, and what an answer that is not as documented comes to."""

from __future__ import annotations

import json
import os
import stat
from typing import TYPE_CHECKING

import pytest

from agent.core.renewal import Pair
from agent.identity import credential_file, held
from agent.identity.account import Credential, is_id
from agent.identity.errors import CredentialFileError, refused
from agent.identity.held import Held

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HELD = Held("0" * 32, "a password in force", "the next one")


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Have a program that fails as written stand for systemd-creds; the real one: tests/system."""

    def made(text: str) -> Path:
        path = tmp_path / "systemd-creds"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        monkeypatch.setattr(credential_file, "_PROGRAM", str(path))
        return path

    return made


def test_a_file_is_whole_or_the_former_one(tmp_path: Path) -> None:
    """And nobody else's to read, whatever the umask."""
    path = tmp_path / "x.cred"
    former = os.umask(0)
    try:
        for content in (b"first", b"second"):
            credential_file.put(path, content)
            assert path.read_bytes() == content
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
    finally:
        os.umask(former)
    assert [one.name for one in tmp_path.iterdir()] == ["x.cred"]
    (tmp_path / "in the way").mkdir()
    with pytest.raises(CredentialFileError, match="in the way: Is a directory"):
        credential_file.put(tmp_path / "in the way", b"x")
    with pytest.raises(CredentialFileError, match="No such file"):
        credential_file.put(tmp_path / "nowhere" / "x", b"x")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["in the way", "x.cred"]


def test_a_link_in_the_way_is_not_followed(tmp_path: Path) -> None:
    """Nor is a draft of somebody else's used."""
    target, path = tmp_path / "target", tmp_path / "x.cred"
    (tmp_path / ".x.cred.draft").symlink_to(target)
    path.symlink_to(target)
    credential_file.put(path, b"secret")
    assert not target.exists()
    assert not path.is_symlink()


def test_what_was_there_stays_where_encrypting_fails(tmp_path: Path, program: Callable[[str], Path]) -> None:
    """The last line of systemd-creds is shown; the secret is in no error."""
    path = credential_file.path_of("x", tmp_path)
    path.write_bytes(b"former")
    program("cat >&2; echo; echo 'no key at all' >&2; exit 1")
    with pytest.raises(CredentialFileError) as caught:
        credential_file.write("x", b"the secret\n", tmp_path)
    assert str(caught.value) == "encrypt x: no key at all"
    assert caught.value.__context__ is None
    program("exit 3")
    with pytest.raises(CredentialFileError, match="exit status 3"):
        credential_file.read("x", tmp_path)
    assert path.read_bytes() == b"former"


def test_a_key_that_is_none_is_refused(tmp_path: Path, program: Callable[[str], Path]) -> None:
    """systemd-creds would encrypt with the null key where it is told nothing else and has no other."""
    program("echo BYRp2vb1QySABUnaD46i+wAAAAAAAAAAAAAAAAAAAAA=; cat >/dev/null")
    with pytest.raises(CredentialFileError, match="anybody could read it"):
        credential_file.write("x", b"secret", tmp_path)
    assert list(tmp_path.glob("*.cred")) == []


def test_without_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named; where there is no credential it is not needed."""
    monkeypatch.setattr(credential_file, "_PROGRAM", str(tmp_path / "none"))
    assert credential_file.read("x", tmp_path) is None
    with pytest.raises(CredentialFileError, match="none: No such file or directory"):
        credential_file.encrypt("x", b"secret")


def test_a_program_that_hangs(monkeypatch: pytest.MonkeyPatch, program: Callable[[str], Path]) -> None:
    """It is ended, and told."""
    program("exec sleep 600")
    monkeypatch.setattr(credential_file, "_TIMEOUT_S", 0.2)
    with pytest.raises(CredentialFileError, match="no answer") as caught:
        credential_file.encrypt("x", b"secret")
    assert caught.value.__context__ is None


def test_what_is_held_is_read_again(tmp_path: Path, program: Callable[[str], Path]) -> None:
    """Through a program that encrypts nothing."""
    program('[ "$1" = encrypt ] && exec cat - || exec cat "$3"')
    for one in (HELD, Held(HELD.user_id, None, "next"), Held(HELD.user_id, "now")):
        held.write(one, tmp_path)
        assert held.read(tmp_path) == one
        assert "now" not in repr(one)
        assert "next'" not in repr(one)


def test_the_credential_in_force_is_read(tmp_path: Path, program: Callable[[str], Path]) -> None:
    """As the renewal writes it; none where setup wrote a secret alone, or nobody anything."""
    program('[ "$1" = encrypt ] && exec cat - || exec cat "$3"')
    assert held.pair(tmp_path) is None
    for content, found in ((b"a secret alone", None), (Pair("id", "s").content(), Pair("id", "s"))):
        credential_file.write(credential_file.KEYSTONE_CREDENTIAL, content, tmp_path)
        assert held.pair(tmp_path) == found


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b"a password",
        json.dumps({"userId": "", "password": None, "next": None}).encode(),
        json.dumps({"userId": "../../x", "password": None, "next": None}).encode(),
        json.dumps({"userId": "1", "password": 1, "next": None}).encode(),
        json.dumps({"userId": "1", "password": "x" * 257, "next": None}).encode(),
        json.dumps({"userId": "1", "password": "x", "next": None, "more": 1}).encode(),
    ],
)
def test_what_is_held_is_checked(content: bytes) -> None:
    """A damaged one is told, and not quoted."""
    with pytest.raises(CredentialFileError, match=r"^the credential account-password is damaged: ") as caught:
        held.parse(content)
    assert caught.value.__context__ is None


def test_generations() -> None:
    """Of names that are ours only."""
    names = ("vps-secrets-1", "vps-secrets-12", "vps-secrets-0", "vps-secrets-01", "vps-secrets-", "mine")
    assert [Credential("1", name, None).generation for name in names] == [1, 12, 0, 0, 0, 0]


def test_ids() -> None:
    """What goes into a path."""
    assert [is_id(text) for text in ("0" * 32, "a-b_c", "", "a/b", "ä", "0" * 65, ".")] == [
        True,
        True,
        *[False] * 5,
    ]


def test_what_may_succeed_later() -> None:
    """By the status alone."""
    assert [refused("x", status).retriable for status in (400, 401, 403, 404, 409, 429, 500, 503)] == [
        *[False] * 5,
        *[True] * 3,
    ]
