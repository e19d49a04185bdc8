"""Who wrote a backup."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from deployer.backup.signing import opened, signer
from deployer.core.backup_format import RefusedBackupError

if TYPE_CHECKING:
    from pathlib import Path

CONTENT = b'{"format": "vps-secrets-backup"}\nof two lines\n'


def test_what_was_signed_is_opened(tmp_path: Path) -> None:
    """By the key of the same file, also the next time; its file is its owner's only."""
    path = tmp_path / "key"
    first = signer(path)
    assert signer(path).public == first.public
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", first.public)
    assert opened(first.sign(CONTENT), first.public) == CONTENT
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.stat().st_size == 32
    assert first.public not in repr(first)


def test_each_changed_byte_is_found(tmp_path: Path) -> None:
    """And each that is missing."""
    mine = signer(tmp_path / "key")
    signed = mine.sign(CONTENT)
    for place in range(len(signed)):
        changed = bytearray(signed)
        changed[place] ^= 1
        for untrusted in (bytes(changed), signed[:place]):
            with pytest.raises(RefusedBackupError, match="may be forged"):
                opened(untrusted, mine.public)


def test_another_ones_is_refused(tmp_path: Path) -> None:
    """Signed by another key, or by none."""
    mine, other = signer(tmp_path / "mine"), signer(tmp_path / "other")
    for untrusted in (other.sign(CONTENT), CONTENT, b"", b"vps-secrets-backup 1 \n" + CONTENT):
        with pytest.raises(RefusedBackupError, match="not signed by this deployment's key"):
            opened(untrusted, mine.public)


@pytest.mark.parametrize("public", ["", "short", "x" * 44, "!" * 43])
def test_a_key_that_is_none_is_told(tmp_path: Path, public: str) -> None:
    """Before anything is opened."""
    with pytest.raises(RefusedBackupError, match="43 characters"):
        opened(signer(tmp_path / "key").sign(CONTENT), public)


def test_a_file_that_is_no_key_is_told(tmp_path: Path) -> None:
    """Of another length, of everybody, in a folder that is not there, a folder itself."""
    path = tmp_path / "key"
    path.write_bytes(b"x" * 31)
    path.chmod(0o600)
    with pytest.raises(RefusedBackupError, match="holds no key"):
        signer(path)
    path.chmod(0o640)
    with pytest.raises(RefusedBackupError, match=f"chmod 600 {path}"):
        signer(path)
    with pytest.raises(RefusedBackupError, match="No such file or directory"):
        signer(tmp_path / "none/key")
    tmp_path.chmod(0o700)
    with pytest.raises(RefusedBackupError, match="can't be read"):
        signer(tmp_path)
