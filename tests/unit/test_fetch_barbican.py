"""agent/fetch/barbican.py: untrusted container JSON to a listing; of references only UUIDs are taken."""

from __future__ import annotations

import json
import uuid
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config.model import Container
from agent.core.errors import CloudError, Step
from agent.core.rotation import Entry
from agent.fetch.barbican import Listing, base_of, parse_listing
from common.names import SecretName, Version
from common.untrusted_json import MalformedError

VPS = "vps-prod-001"
BASE = "https://barbican.example:9311/key-manager"
CONTAINER = Container(str(uuid.uuid4()), None)
VERSION = Version(str(uuid.uuid4()))


def listing(*entries: object, container: Container = CONTAINER) -> Listing:
    """Parse a container with these entries."""
    ref = f"{BASE}/v1/containers/{container.id}"
    made = {"container_ref": ref, "secret_refs": list(entries), "name": None, "type": "generic"}
    return parse_listing(json.dumps(made).encode(), BASE, VPS, container)


def entry(name: object, ref: str = f"{BASE}/v1/secrets/{VERSION}") -> dict[str, object]:
    """Return one entry."""
    return {"name": name, "secret_ref": ref}


def test_entries_keep_their_case_and_their_doubles() -> None:
    """Which barbicanclient's container does not."""
    other = Version(str(uuid.uuid4()))
    made = listing(
        entry(f"{VPS}/JWT_SECRET"),
        entry(f"{VPS}/JWT_SECRET", f"{BASE}/v1/secrets/{other}"),
        entry(f"{VPS}/jwt_secret"),
    )
    assert made.entries == (
        Entry(SecretName("JWT_SECRET"), VERSION),
        Entry(SecretName("JWT_SECRET"), other),
        Entry(SecretName("jwt_secret"), VERSION),
    )
    assert made.has_double()
    assert not made.rejected


def test_the_same_entry_twice_is_one() -> None:
    """It is no rotation."""
    assert not listing(entry(f"{VPS}/A"), entry(f"{VPS}/A")).has_double()


@pytest.mark.parametrize(
    "ref",
    [
        "https://elsewhere.example:9311/key-manager/v1/secrets/{}",
        "http://barbican.example:9311/key-manager/v1/secrets/{}",
        "https://barbican.example/key-manager/v1/secrets/{}",
        "https://barbican.example:9311/v1/secrets/{}",
        "https://barbican.example:9311/key-manager/v1/containers/{}",
        "https://barbican.example:9311/key-manager/v1/secrets/x/../{}",
        "https://u:p@barbican.example:9311/key-manager/v1/secrets/{}",
        "https://barbican.example:9311/key-manager/v1/secrets/a?b=/secrets/{}",
        "https://[barbican/v1/secrets/{}",
        "ftp://barbican.example:9311/key-manager/v1/secrets/{}",
        "https://barbican.example:99999/key-manager/v1/secrets/{}",
        "{}",
    ],
)
def test_a_reference_to_another_place(ref: str) -> None:
    """It is listed, so that nothing is dropped for it, and marked, so that nothing is requested for it."""
    made = listing(entry(f"{VPS}/A", ref.format(VERSION)))
    assert made.entries == (Entry(SecretName("A"), VERSION),)
    assert made.elsewhere == {VERSION}
    assert made.rejected == (f"{VPS}/A (its reference points to another address)",)


def test_long_names_are_cut_to_what_the_wire_takes() -> None:
    """A reply with a longer text would be refused whole."""
    vps_id = "v" * 64
    odd = entry(f"{vps_id}/{'a' * 200}", f"https://elsewhere.example/{VERSION}")
    container = {"container_ref": CONTAINER.id, "secret_refs": [odd]}
    made = parse_listing(json.dumps(container).encode(), BASE, vps_id, CONTAINER)
    assert (len(made.entries), len(made.rejected[0])) == (1, 256)


@pytest.mark.parametrize(
    ("ref", "base"),
    [
        ("https://Barbican.Example/v1/secrets/{}", "https://barbican.example:443"),
        ("http://b:80/v1/secrets/{}", "http://b"),
    ],
)
def test_the_same_place_in_other_words(ref: str, base: str) -> None:
    """Host names know no case, and default ports may be written."""
    made = {
        "container_ref": f"x/{CONTAINER.id}",
        "secret_refs": [entry(f"{VPS}/A", ref.format(VERSION))],
    }
    assert not parse_listing(json.dumps(made).encode(), base, VPS, CONTAINER).elsewhere


def test_the_configured_reference_names_a_place_too() -> None:
    """Barbican's host_href, where the operator gives the reference as Barbican gave it."""
    container = Container(CONTAINER.id, f"https://href.example/v1/containers/{CONTAINER.id}")
    made = listing(entry(f"{VPS}/A", f"https://href.example/v1/secrets/{VERSION}"), container=container)
    assert not made.elsewhere


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("vps-prod-002/A", "vps-prod-002/A"),
        ("vps-prod-001", "vps-prod-001"),
        ("vps-prod-001/", "vps-prod-001/"),
        ("vps-prod-001/a/b", "vps-prod-001/a/b"),
        ("VPS-PROD-001/A", "VPS-PROD-001/A"),
        ("A", "A"),
        ("\n", "\\n"),
        ("\ud800", "\\ud800"),
        ("é" * 300, "é" * 255 + "…"),
        (None, "(entry without a name)"),
        (7, "(entry without a name)"),
    ],
)
def test_entries_of_others_are_named_for_people(name: object, shown: str) -> None:
    """Printable, one line, bounded; their references are not even looked at."""
    made = listing(entry(name, "not a reference"))
    assert (made.entries, made.rejected) == ((), (shown,))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["name", "secret_ref", "secret_refs", "x"]), inner, max_size=4)
    ),
)


@given(JSON)
def test_any_json_gives_a_listing_or_one_error(made: object) -> None:
    """There is no third outcome."""
    with suppress(MalformedError):
        parse_listing(json.dumps(made).encode(), BASE, VPS, CONTAINER)
    with suppress(MalformedError):
        listing(made, entry(f"{VPS}/A", str(made)))


@given(st.binary(max_size=100))
def test_what_is_no_json_is_refused(noise: bytes) -> None:
    """Without its text, and without the parser's error that holds it."""
    with pytest.raises(MalformedError) as caught:
        parse_listing(noise, BASE, VPS, CONTAINER)
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("endpoint", "base"),
    [
        ("https://b.example:9311", "https://b.example:9311"),
        ("https://b.example:9311/", "https://b.example:9311"),
        ("https://b.example/key-manager/v1/", "https://b.example/key-manager"),
        ("http://b.example/v1", None),
        ("https://b.example/v1?x=1", None),
        ("https://u:p@b.example/v1", None),
        ("file:///etc", None),
        ("https://", None),
        ("", None),
    ],
)
def test_endpoints(endpoint: str, base: str | None) -> None:
    """With or without a version; never from HTTPS to plain HTTP."""
    if base is not None:
        assert base_of(endpoint, "https://k.example/v3") == base
        return
    with pytest.raises(CloudError) as caught:
        base_of(endpoint, "https://k.example/v3")
    assert caught.value.failure.step is Step.CATALOG
