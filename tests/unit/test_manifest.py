"""The manifest: what the agent writes is what the deployment reads, and nothing else is taken for one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.dates import LAST_TIME, date, parse
from common.limits import MAX_SECRETS
from common.manifest import Manifest, Reference, decode, encode
from common.names import parse_name, parse_version
from common.untrusted_json import MalformedError

if TYPE_CHECKING:
    from collections.abc import Callable

CONTAINER = "https://barbican.example:9311/v1/containers/0b9d3a1c-6d6b-4d2c-9f2a-0123456789ab"
VERSION = "7a1f4c52-1111-4222-8333-444455556666"
MOMENTS = st.integers(0, int(LAST_TIME)).map(float)
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True).map(parse_name)
REFERENCES = st.builds(
    Reference, st.uuids().map(lambda uuid: parse_version(str(uuid))), MOMENTS, st.none() | MOMENTS
)


@given(
    st.sampled_from([CONTAINER, CONTAINER.removeprefix("https://barbican.example:9311")]),
    st.dictionaries(NAMES, REFERENCES, max_size=5),
)
def test_what_is_written_is_read(container: str, secrets: dict[object, Reference]) -> None:
    """Names, versions and dates, whether the container was configured by URL or by UUID."""
    manifest = Manifest("vps-1", container, secrets)  # type: ignore[arg-type]  # hypothesis loses the NewType
    assert decode(json.dumps(encode(manifest)).encode()) == manifest


def written() -> dict[str, object]:
    """Return a good manifest's members."""
    name, version = parse_name("A"), parse_version(VERSION)
    assert name
    assert version
    return encode(Manifest("vps-1", CONTAINER, {name: Reference(version, 1700000000.9, None)}))


def test_the_members_are_as_documented() -> None:
    """References and dates: docs/socket-api.md."""
    assert written() == {
        "vpsId": "vps-1",
        "secretContainerRef": CONTAINER,
        "secrets": {
            "A": {
                "ref": f"https://barbican.example:9311/v1/secrets/{VERSION}",
                "description": "vps-1/A",
                "created": "2023-11-14T22:13:20Z",
                "expires": None,
            }
        },
    }


def _set(**members: object) -> Callable[[dict[str, object]], object]:
    return lambda manifest: manifest.update(members)


def _set_secret(**members: object) -> Callable[[dict[str, object]], object]:
    return lambda manifest: manifest["secrets"]["A"].update(members)  # type: ignore[index]


@pytest.mark.parametrize(
    "change",
    [
        _set(more=1),
        _set(vpsId="a/b"),
        _set(vpsId=None),
        _set(secretContainerRef="https://barbican.example:9311/v1/containers/no-uuid"),
        _set(secretContainerRef=f"https://barbican.example:9311/v1/secrets/{VERSION}"),
        _set(secrets=[]),
        _set(secrets={"../A": {}}),
        _set(secrets={"A": None}),
        _set(secrets={f"A{number}": {} for number in range(MAX_SECRETS + 1)}),
        _set_secret(payload="canary"),
        _set_secret(ref=f"https://elsewhere.example/v1/secrets/{VERSION}"),
        _set_secret(ref="https://barbican.example:9311/v1/secrets/latest"),
        _set_secret(description="vps-2/A"),
        _set_secret(created=1700000000),
        _set_secret(created="2023-02-31T00:00:00Z"),
        _set_secret(expires="2023-11-14T22:13:20+01:00"),
        _set_secret(expires="9999-12-31T23:59:60Z"),
    ],
)
def test_anything_else_is_refused(change: Callable[[dict[str, object]], object]) -> None:
    """By rule, and the error holds no part of what was read."""
    manifest = written()
    change(manifest)
    with pytest.raises(MalformedError) as raised:
        decode(json.dumps(manifest).encode())
    assert "canary" not in str(raised.value)
    assert "elsewhere" not in str(raised.value)


@pytest.mark.parametrize("moment", [0.0, 1.5, 951_782_400.0, LAST_TIME])
def test_a_date_is_utc_to_the_second(moment: float) -> None:
    """As far as the year 9999; read back without its fraction."""
    assert parse(date(moment)) == float(int(moment))


@pytest.mark.parametrize(
    "text", ["", "now", "2023-11-14", "1969-12-31T23:59:59Z", "\uff12023-11-14T22:13:20Z"]
)
def test_another_text_is_no_date(text: str) -> None:
    """Nor is a date before Unix time began."""
    assert parse(text) is None
