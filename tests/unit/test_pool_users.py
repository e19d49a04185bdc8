"""deployer/registrar: which users of a pool were given to VPSs, as ``cloud verify`` reads it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from deployer.config.credentials import CredentialError
from deployer.config.reader import load
from deployer.registrar.errors import RefusalError
from deployer.registrar.opening import pool_users

if TYPE_CHECKING:
    from pathlib import Path

ONE, TWO = "1" * 32, "2" * 32


def test_who_has_which_user_is_read_and_nothing_is_made(tmp_path: Path) -> None:
    """Of those that are given now; a file that is not there stays so, and a damaged one is told."""
    path, state = tmp_path / "deployer.toml", tmp_path / "state"
    path.write_text(
        '[keystone]\nauth_url = "http://127.0.0.1:1/v3"\n'
        f'[registrar]\npool_file = "{tmp_path}/pool.json"\npool_state = "{state}"\n'
    )
    config = load(path)
    assert pool_users(config) == {}
    assert not state.exists()
    events = [
        ("given", "vps-1", ONE),
        ("given", "vps-2", TWO),
        ("told", "vps-2", TWO),
        ("left", "vps-1", ONE),
    ]
    state.write_text(
        "".join(json.dumps({"event": event, "vps": vps, "user": user}) + "\n" for event, vps, user in events)
    )
    assert pool_users(config) == {TWO: "vps-2"}
    state.write_text("nonsense\n")
    with pytest.raises(RefusalError, match="is damaged"):
        pool_users(config)
    state.unlink()
    state.mkdir()
    with pytest.raises(CredentialError, match="Is a directory"):
        pool_users(config)
