"""agent/config/beacon.py: a beacon is a URL that may be signed, and the signature is in no text."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agent.config.beacon import BeaconSettings, beacon_url, shown
from agent.config.reader import NOT_FETCH, NOT_WATCH, load
from common.errors import ConfigurationError

if TYPE_CHECKING:
    from agent.config.model import Config

UUID = "0b5a7c5e-2d0e-4c1c-9b0a-3f6f7d7d0b11"
HEAD = f'vps_id = "vps-prod-001"\ncontainer = "{UUID}"\n'
LOGIN = (
    '[keystone]\nauth_url = "https://k.example/v3"\napplication_credential_id = "abc"\nca_file = "/ca.pem"\n'
)
CANARY = secrets.token_hex(16)


def _load(tmp_path: Path, beacon: str, passing_over: frozenset[str] = frozenset()) -> Config:
    path = tmp_path / "agent.toml"
    path.write_text(f"{HEAD}{LOGIN}{beacon}")
    return load(path, passing_over=passing_over)


def _keys(tmp_path: Path, beacon: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        _load(tmp_path, beacon)
    assert CANARY not in str(caught.value)
    return sorted(mistake.key for mistake in caught.value.mistakes)


def test_without_a_url_there_is_none(tmp_path: Path) -> None:
    """An empty table is none too."""
    assert _load(tmp_path, "").beacon is None
    assert _load(tmp_path, "[beacon]\n").beacon is None


def test_defaults_and_all_keys(tmp_path: Path) -> None:
    """Keystone's authority is taken over for Keystone's object store only."""
    url = f"https://b.example/fleet?sig={CANARY}&e=1"
    assert _load(tmp_path, f'[beacon]\nurl = "{url}"\n').beacon == BeaconSettings(
        url, 30.0, "none", None, 4.2
    )
    keystone = _load(tmp_path, '[beacon]\nurl = "https://s.example/b"\nauth = "keystone"\n').beacon
    assert keystone is not None
    assert keystone.ca_file == Path("/ca.pem")
    every = _load(
        tmp_path,
        '[beacon]\nurl = "https://s.example/b"\ninterval = "1m"\nca_file = "/x"\nspread = "10s"\n',
    ).beacon
    assert every == BeaconSettings("https://s.example/b", 60.0, "none", Path("/x"), 10.0)


@pytest.mark.parametrize(
    ("beacon", "keys"),
    [
        (f'url = "http://b.example/{CANARY}"', ["beacon.url"]),
        ("url = 1", ["beacon.url"]),
        ('interval = "10s"', ["beacon.interval"]),
        ('url = "https://b"\ninterval = "1ms"', ["beacon.interval"]),
        ('url = "https://b"\nauth = "basic"', ["beacon.auth"]),
        ('url = "https://b"\nspread = 3', ["beacon.spread"]),
        ('url = "https://b"\nca_file = "rel"', ["beacon.ca_file"]),
        ('url = "https://b"\nintervall = "1m"', ["beacon.intervall"]),
        (f'url = "https://b"\ntoken = "{CANARY}"', ["beacon.token"]),
    ],
)
def test_mistakes(tmp_path: Path, beacon: str, keys: list[str]) -> None:
    """Each with its key, never with the value; what has no effect is one."""
    assert _keys(tmp_path, f"[beacon]\n{beacon}\n") == keys


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("https://b.example/fleet", True),
        ("https://b.example/fleet/?a=b?c", True),
        ("http://127.0.0.1:8080/b", True),
        ("http://b.example/fleet", False),
        ("https://user@b.example/fleet", False),
        ("https://b.example/fleet#a", False),
        ("https://b.example/fleet?a b", False),
        ("https://b.example/fl\u00e9et", False),
        ("https://b.example/?" + "x" * 2048, False),
        ("?a=b", False),
    ],
)
def test_urls(text: str, *, good: bool) -> None:
    """HTTPS, or loopback; a query may be there, a user or a fragment not."""
    assert (beacon_url(text) == text) is good


def test_a_signature_is_in_no_text(tmp_path: Path) -> None:
    """Neither in a repr nor in what people are shown."""
    url = f"https://b.example/fleet?sig={CANARY}"
    config = _load(tmp_path, f'[beacon]\nurl = "{url}"\n')
    assert CANARY not in repr(config) + str(config)
    assert shown(url) == "https://b.example/fleet?…"
    assert shown("https://b.example/fleet") == "https://b.example/fleet"


def test_a_mistake_stops_no_reading(tmp_path: Path) -> None:
    """A reading needs no beacon, a watch does."""
    assert _load(tmp_path, '[beacon]\nurl = "x"\n', NOT_FETCH).beacon is None
    with pytest.raises(ConfigurationError):
        _load(tmp_path, '[beacon]\nurl = "x"\n', NOT_WATCH)
