"""common/addresses.py and agent/config/addresses.py: one form of an address, whoever wrote it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import addresses as services
from common import addresses


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("https://keystone.example.org/v3", "https://keystone.example.org/v3"),
        ("HTTPS://Keystone.Example.ORG/v3/", "https://keystone.example.org/v3"),
        ("https://keystone.example.org:443/v3", "https://keystone.example.org/v3"),
        ("http://keystone.example.org:80", "http://keystone.example.org"),
        ("https://keystone.example.org:5000/", "https://keystone.example.org:5000"),
        ("https://keystone.example.org./v3", "https://keystone.example.org/v3"),
        ("https://keystone.example.org:/v3", "https://keystone.example.org/v3"),
        ("https://[2001:DB8:0:0::1]:443/v3", "https://[2001:db8::1]/v3"),
        ("http://[::1]:5000/identity/v3", "http://[::1]:5000/identity/v3"),
        ("https://bücher.example/v3", "https://xn--bcher-kva.example/v3"),
        ("https://k.example/Identity/V3", "https://k.example/Identity/V3"),
    ],
)
def test_one_form(text: str, normal: str) -> None:
    """Scheme and host in lower case, no default port, no slash at the end; a path keeps its case."""
    made = addresses.parse(text)
    assert str(made) == normal
    assert addresses.parse(normal) == made


@pytest.mark.parametrize(
    "text",
    [
        *("", "x", "/v3", "//k.example", "ftp://k.example", "file:///etc", "https://", "https:///v3"),
        *(
            "https://u@k.example",
            "https://u:p@k.example",
            "https://@k.example",
            "https://k.example?",
            "https://k#",
        ),
        *(
            "https://k.example:0",
            "https://k.example:x",
            "https://k.example:99999",
            "https://[::1",
            "https://[::1%1]/",
        ),
        *(
            "https://k.example/a/../v3",
            "https://k.example/./v3",
            "https://k.example/..",
            "https://k example/",
        ),
        *("https://k.example\\@evil/", "https://k.example/\n", "https://k.example/\t", " https://k.example"),
        *(
            "https://-/",
            "https://k..example/" + "x" * 3000,
            "https://.k",
            "https://k.example/<",
            "https://[x]/",
        ),
    ],
)
def test_what_is_none(text: str) -> None:
    """More than an address, or something that clients read differently."""
    assert addresses.parse(text) is None


@given(
    st.text(alphabet="htps:/.aA0[]@?#%\\ -1é", max_size=30)
    | st.from_regex(r"https?://[!-~]{0,20}", fullmatch=True)
)
def test_the_form_is_its_own(text: str) -> None:
    """Whatever was given: an address or nothing, and the address written out is itself."""
    made = addresses.parse(text)
    assert made is None or addresses.parse(str(made)) == made


@pytest.mark.parametrize(
    ("outer", "inner", "held"),
    [
        ("https://k.example/v3", "https://K.Example:443/v3/auth/tokens", True),
        ("https://k.example/v3", "https://k.example/v3", True),
        ("https://k.example/v3", "https://k.example/v30/auth", False),
        ("https://k.example/v3", "https://k.example/", False),
        ("https://k.example/v3", "http://k.example/v3/auth", False),
        ("https://k.example/v3", "https://k.example:8443/v3/auth", False),
        ("https://k.example/v3", "https://k.example.evil/v3/auth", False),
        ("https://k.example", "https://k.example/anything", True),
        ("https://k.example/v3", "https://k.example/V3/auth", False),
    ],
)
def test_below(outer: str, inner: str, *, held: bool) -> None:
    """By origin and by whole segments of the path."""
    one, other = addresses.parse(outer), addresses.parse(inner)
    assert one is not None
    assert other is not None
    assert one.holds(other) is held


@pytest.mark.parametrize(
    ("text", "keystone"),
    [
        ("https://k.example", "https://k.example/v3"),
        ("https://k.example/", "https://k.example/v3"),
        ("https://k.example/v3/", "https://k.example/v3"),
        ("https://K.example:443/identity", "https://k.example/identity/v3"),
        ("http://localhost:5000", "http://localhost:5000/v3"),
        ("http://k.example/v3", None),
        ("https://k.example/v2.0", None),
        ("https://k.example/v3/auth/tokens", None),
        ("https://k.example/v3/v3", None),
    ],
)
def test_keystone_with_its_version(text: str, keystone: str | None) -> None:
    """Written or not; another version, or something below it, is a mistake."""
    assert services.keystone(text) == keystone


@pytest.mark.parametrize(
    ("text", "barbican"),
    [
        ("https://b.example", "https://b.example"),
        ("https://b.example/v1", "https://b.example"),
        ("https://B.example:443/key-manager/v1/", "https://b.example/key-manager"),
        ("https://b.example/v1/containers", None),
        ("https://b.example/v2", None),
        ("http://b.example", None),
    ],
)
def test_barbican_without_its_version(text: str, barbican: str | None) -> None:
    """Likewise."""
    assert services.barbican(text) == barbican
