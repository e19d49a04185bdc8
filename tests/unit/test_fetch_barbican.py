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
from agent.core.rotation import Entry, has_double
from agent.fetch.barbican import Listing, base_of, parse_listing
from common.acknowledgement import consumer_of
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
    return parse_listing(json.dumps(made).encode(), VPS, container)


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
    assert has_double(made.entries)
    assert not made.rejected


def test_the_same_entry_twice_is_one() -> None:
    """It is no rotation."""
    made = listing(entry(f"{VPS}/A"), entry(f"{VPS}/A"), entry(f"{VPS}/A~7"))
    assert made.entries == (Entry(SecretName("A"), VERSION), Entry(SecretName("A"), VERSION, 7))
    assert not has_double(made.entries)


def test_what_consumers_say() -> None:
    """Ours with a digest, each once; whatever else is there is nobody's business and stops no reading."""
    one, two = consumer_of("1" * 64), consumer_of("2" * 64)
    others: list[object] = [
        *(None, 7, "x", [], {}, {"name": "vps-secrets"}, {"URL": one["URL"]}, {**one, "name": "other"}),
        *({**one, "URL": None}, {**one, "URL": one["URL"] + "0"}, {**one, "URL": "urn:vps-secrets:key:x"}),
        {**one, "URL": one["URL"].upper()},
    ]
    for consumers, said in (
        ([one, *others, two, one], ("1" * 64, "2" * 64)),
        (others, ()),
        (None, ()),
        ({}, ()),
        ([consumer_of(f"{number:064x}") for number in range(200)], None),
    ):
        made: dict[str, object] = {
            "container_ref": f"{BASE}/v1/containers/{CONTAINER.id}",
            "secret_refs": [],
            "consumers": consumers,
        }
        found = parse_listing(json.dumps(made).encode(), VPS, CONTAINER).acknowledged
        assert found == said if said is not None else len(found) == 100


def test_an_entry_with_a_k_is_one_of_its_name() -> None:
    """Two versions of it are a double, however they are listed; what is no K is not ours."""
    other = f"{BASE}/v1/secrets/{uuid.uuid4()}"
    made = listing(entry(f"{VPS}/A~1795714393"), entry(f"{VPS}/A", other), entry(f"{VPS}/A~01"))
    assert [(e.name, e.k) for e in made.entries] == [("A", 1795714393), ("A", 0)]
    assert made.rejected == (f"{VPS}/A~01",)
    assert has_double(made.entries)


@pytest.mark.parametrize(
    "ref",
    [
        "https://internal.example/v1/secrets/{}",
        "http://barbican.example:9311/key-manager/v1/secrets/{}",
        "https://BARBICAN.example:9311/key-manager/v1/secrets/{}",
        "https://barbican.example:443/other/v1/secrets/{}/",
        "https://barbican.example/v2/secrets/{}",
        "https://u:p@barbican.example:9311/v1/secrets/{}",
        "https://[barbican/v1/secrets/{}",
        "/v1/secrets/{}",
        "{}",
    ],
)
def test_of_a_reference_only_the_uuid_is_taken(ref: str) -> None:
    """Wherever it points: the secret is read at our endpoint, and its own name decides."""
    for text in (VERSION, VERSION.upper()):
        made = listing(entry(f"{VPS}/A", ref.format(text)))
        assert made.entries == (Entry(SecretName("A"), VERSION),)
        assert not made.rejected


@pytest.mark.parametrize(
    "broken",
    [
        {"name": f"{VPS}/A"},
        {"name": f"{VPS}/A", "secret_ref": None},
        {"name": f"{VPS}/A", "secret_ref": f"{BASE}/v1/secrets/"},
        {"name": f"{VPS}/A", "secret_ref": f"{BASE}/v1/secrets/{VERSION}/payload"},
        {"name": f"{VPS}/A", "secret_ref": f"{BASE}/v1/secrets/{VERSION}?x"},
        {"name": 7, "secret_ref": f"{BASE}/v1/secrets/{VERSION}"},
        {"secret_ref": f"{BASE}/v1/secrets/{VERSION}"},
        None,
        [],
    ],
)
def test_an_entry_that_is_not_as_documented_fails_the_whole(broken: object) -> None:
    """It may be one of ours: left out, it would be taken for removed."""
    with pytest.raises(MalformedError):
        listing(entry(f"{VPS}/B"), broken)


def test_too_many_entries_are_refused_with_the_bound() -> None:
    """None is left out in silence."""
    many = [entry(f"vps-{number}/A") for number in range(200)]
    assert len(listing(*many).rejected) == 200
    with pytest.raises(MalformedError, match="201 entries, and this agent takes 200"):
        listing(*many, entry(f"{VPS}/A"))


def test_long_names_are_cut_to_what_the_wire_takes() -> None:
    """A reply with a longer text would be refused whole."""
    assert [len(name) for name in listing(entry("v" * 300)).rejected] == [256]


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
        parse_listing(json.dumps(made).encode(), VPS, CONTAINER)
    with suppress(MalformedError):
        listing(made, entry(f"{VPS}/A", str(made)))


@given(st.binary(max_size=100))
def test_what_is_no_json_is_refused(noise: bytes) -> None:
    """Without its text, and without the parser's error that holds it."""
    with pytest.raises(MalformedError) as caught:
        parse_listing(noise, VPS, CONTAINER)
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("endpoint", "base"),
    [
        ("https://b.example:9311", "https://b.example:9311"),
        ("https://b.example:9311/", "https://b.example:9311"),
        ("https://b.example/key-manager/v1/", "https://b.example/key-manager"),
        ("HTTPS://B.Example:443/v1", "https://b.example"),
        ("https://b.example/v30/", "https://b.example/v30"),
        ("https://b.example/../v1", None),
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
