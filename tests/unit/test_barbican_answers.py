"""Barbican's answers: what is taken from them, and what is refused, whoever wrote it."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.names import SecretName, Version, entry_name, parse_entry_name
from common.untrusted_json import MalformedError
from deployer.cloud import barbican_answers as answers
from deployer.cloud.errors import ForeignError
from deployer.core.model import Entry, Made, Marks

if TYPE_CHECKING:
    from collections.abc import Callable

VPS, BASE = "vps-1", "https://barbican.example/key-manager"
C, V = (Version(f"{n}0000000-0000-4000-8000-000000000000") for n in (1, 2))
CONTAINER: dict[str, Any] = {
    "container_ref": f"{BASE}/v1/containers/{C}",
    "name": VPS,
    "consumers": [{"URL": "urn:1", "name": "agent"}],
    "secret_refs": [{"name": f"{VPS}/A~2", "secret_ref": f"{BASE}/v1/secrets/{V}"}],
}
SECRET: dict[str, Any] = {
    "name": f"{VPS}/A",
    "secret_ref": f"{BASE}/v1/secrets/{V}",
    "created": "2026-11-26T12:00:00.5",
}
A = SecretName("A")


def test_a_container_is_read() -> None:
    """Entries with their K, and the URLs of consumers."""
    entries = frozenset({Entry(A, 2, V)})
    assert answers.container(CONTAINER, VPS, C) == answers.Listing(entries, frozenset({"urn:1"}))
    assert answers.consumer_names(CONTAINER, "urn:1") == {"agent"}
    assert answers.consumer_names(CONTAINER, "urn:2") == set()


def entry(**members: object) -> Callable[[dict[str, Any]], None]:
    """Change the entry of a container."""
    return lambda container: container["secret_refs"][0].update(members)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda c: c.update(name="vps-2"), ForeignError),
        (lambda c: c.update(container_ref=f"{BASE}/v1/containers/{V}"), ForeignError),
        (lambda c: c.update(container_ref=f"{BASE}/v1/secrets/{C}"), MalformedError),
        (lambda c: c.update(secret_refs=None), MalformedError),
        (lambda c: c.update(secret_refs=[{}] * (answers.MAX_ENTRIES + 1)), MalformedError),
        (lambda c: c.update(consumers=[{"URL": "x" * 256, "name": "n"}]), MalformedError),
        (lambda c: c.update(consumers=["urn:1"]), MalformedError),
        (entry(name="vps-2/A"), ForeignError),
        (entry(name="A"), ForeignError),
        (entry(name=None), ForeignError),
        (entry(name=3), MalformedError),
        (entry(name=f"{VPS}/A~0"), ForeignError),
        (entry(name=f"{VPS}/A~02"), ForeignError),
        (entry(name=f"{VPS}/A~"), ForeignError),
        (entry(name=f"{VPS}/A~1~2"), ForeignError),
        (entry(name=f"{VPS}/" + "A" * 300), ForeignError),
        (entry(secret_ref=f"https://evil.example/v1/secrets/{V}"), ForeignError),
        (entry(secret_ref=f"{BASE}/v1/secrets/{V}/payload"), MalformedError),
        (entry(secret_ref=f"{BASE}/v1/secrets/../containers"), MalformedError),
        (entry(secret_ref=None), MalformedError),
    ],
)
def test_what_is_wrong_in_a_container(
    change: Callable[[dict[str, Any]], None], error: type[Exception]
) -> None:
    """One thing wrong, and the whole is refused: an entry that was left out would be taken for removed."""
    container = copy.deepcopy(CONTAINER)
    change(container)
    with pytest.raises(error):
        answers.container(container, VPS, C)


def test_versions_of_exactly_one_name() -> None:
    """Times are UTC, whether they say so or not."""
    page = {"secrets": [SECRET, SECRET | {"name": f"{VPS}/B", "created": None}]}
    made = Made(A, V, 1795694400.5, None)
    assert answers.versions(page, f"{VPS}/A", A) == {made}
    aware = {"secrets": [SECRET | {"created": "2026-11-26T12:00:00.500000+00:00"}]}
    assert answers.versions(aware, f"{VPS}/A", A) == {made}


@pytest.mark.parametrize(
    "created", [None, 3, "", "yesterday", "2026-02-30T00:00:00", "2026-11-26T12:00:00+01:00"]
)
def test_a_time_that_is_none(created: object) -> None:
    """From it a rotation's due date would follow."""
    with pytest.raises(MalformedError):
        answers.versions({"secrets": [SECRET | {"created": created}]}, f"{VPS}/A", A)


words = st.from_regex(r"[A-Za-z0-9._-]{1,40}", fullmatch=True)


plain = st.just((0, ""))
seals = st.tuples(st.integers(1, 2**53 - 1), st.from_regex(r"[0-9a-f]{32}", fullmatch=True))


@given(
    st.tuples(words, words, st.just("") | words, plain | seals).map(lambda made: Marks(*made[:3], *made[3]))
)
def test_marks_are_read_as_they_were_written(marks: Marks) -> None:
    """With a slot and without, sealed and not."""
    assert answers.marks({"metadata": answers.written(marks)}) == marks


keys = st.sampled_from(["rotation", "kind", "slot", "sequence", "key", "x"])


@given(st.dictionaries(keys, st.none() | st.text() | words))
def test_whatever_metadata_there_are(metadata: dict[str, object]) -> None:
    """Marks or None, never an error: metadata may be anybody's."""
    marks = answers.marks({"metadata": metadata})
    if marks is not None:
        assert answers.written(marks).items() <= metadata.items()


@given(words, st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,40}", fullmatch=True), st.integers(0, 10**9 - 1))
def test_an_entry_s_name_is_read_as_it_was_written(vps_id: str, name: str, k: int) -> None:
    """And never for another VPS."""
    full = entry_name(vps_id, SecretName(name), k)
    assert parse_entry_name(vps_id, full) == (name, k)
    assert parse_entry_name(f"{vps_id}x", full) is None


@pytest.mark.parametrize("page", [[], {}, {"total": -1}, {"total": True}, {"total": "3"}])
def test_a_list_without_its_length(page: object) -> None:
    """Without it nobody knows whether there is more."""
    with pytest.raises(MalformedError):
        answers.total(page)


def test_containers_with_their_names() -> None:
    """All of a page, whosever they are; one without a name has none."""
    nameless = CONTAINER | {"name": None}
    assert answers.named_containers({"containers": [CONTAINER, nameless]}) == [(VPS, C), ("", C)]
    with pytest.raises(MalformedError):
        answers.named_containers({"containers": [{"name": VPS}]})


def test_whom_an_acl_lets_read() -> None:
    """Users by their ids; Barbican's default ACL names nobody."""
    assert answers.readers({"read": {"users": ["u1"], "project-access": False}}) == ["u1"]
    assert answers.readers({"read": {"project-access": True}}) == []
    with pytest.raises(MalformedError):
        answers.readers({"read": {"users": [1]}})
