"""agent/fetch/token.py: which URLs are of one origin; the rest is in tests/cloud/test_beacon_swift.py."""

from __future__ import annotations

import pytest

from agent.fetch.token import origin

HERE = origin("https://swift.example/v1/AUTH_a/beacons/fleet")


@pytest.mark.parametrize(
    ("url", "same"),
    [
        ("https://swift.example/v1/AUTH_b", True),
        ("https://swift.example:443/", True),
        ("https://SWIFT.example", True),
        ("http://swift.example/", False),
        ("https://swift.example:8443/", False),
        ("https://swift.example.evil/", False),
        ("https://evil/swift.example/", False),
        ("https://swift.example@evil/", False),
        ("ftp://swift.example/", False),
        ("https://swift.example:x/", False),
        ("https://[::1/", False),
        ("", False),
        ("None", False),
    ],
)
def test_a_token_goes_to_one_origin(url: str, *, same: bool) -> None:
    """Scheme, host and port; what has none is nobody's."""
    assert HERE is not None
    assert (origin(url) == HERE) is same
