"""What a backup says: written and read back the same, and nothing else is taken for one."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.names import SecretName, Version
from deployer.core.backup_format import (
    CLOCKS_S,
    TOO_OLD_S,
    Backup,
    RefusedBackupError,
    SavedSecret,
    SavedVps,
    accept,
    decode,
    encode,
)
from deployer.core.backup_proof import differences
from deployer.core.model import Entry, Observed

if TYPE_CHECKING:
    from collections.abc import Callable

BASE = "https://barbican.example.org:9311/v1"
DEPLOYMENT = "00000000-0000-4000-8000-00000000000d"
MADE = 1_800_000_000.0
VERSIONS = st.uuids().map(lambda made: Version(str(made)))
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,30}", fullmatch=True)
LINES = st.text(st.characters(exclude_categories=("C", "Z")), max_size=20)
MOMENTS = st.integers(0, 250_000_000_000).map(float)


def uuid(number: int) -> Version:
    """Return a version."""
    return Version(f"00000000-0000-4000-8000-{number:012d}")


SECRETS = st.builds(
    SavedSecret,
    version=st.none() | VERSIONS,
    kind=st.sampled_from(["random", "external"]),
    group=NAMES,
    created=st.none() | MOMENTS,
    due=st.none() | MOMENTS,
)
VPSES = st.builds(
    SavedVps,
    vps_id=NAMES,
    container=st.none() | VERSIONS,
    blueprint=st.just("backend"),
    labels=st.dictionaries(LINES, LINES, max_size=3),
    wave=st.integers(0, 9),
    wanted=st.sampled_from(["present", "revoked"]),
    user_id=LINES,
    secrets=st.dictionaries(NAMES.map(SecretName), SECRETS, max_size=4),
)
BACKUPS = st.builds(
    Backup,
    deployment=VERSIONS,
    made=MOMENTS,
    barbican=st.just(BASE),
    blueprints=st.dictionaries(NAMES, LINES, max_size=2).map(
        lambda more: {**more, "backend": "[A]\n\tk = 1\n"}
    ),
    cloud=st.none() | LINES,
    vpses=st.lists(VPSES, max_size=4, unique_by=lambda vps: vps.vps_id).map(tuple),
)
ONE = Backup(
    deployment=DEPLOYMENT,
    made=MADE,
    barbican=BASE,
    blueprints={"backend": '[A]\nkind = "random"\n'},
    cloud="# cloud\n",
    vpses=(
        SavedVps(
            vps_id="vps-1",
            container=uuid(1),
            blueprint="backend",
            labels={"site": "ams"},
            wave=1,
            wanted="present",
            user_id="u1",
            secrets={
                SecretName("A"): SavedSecret(uuid(2), "random", "A", MADE - 9, MADE + 9),
                SecretName("B"): SavedSecret(None, "external", "B", None, None),
            },
        ),
    ),
)


@given(BACKUPS)
def test_what_was_written_is_read(backup: Backup) -> None:
    """All of it."""
    assert decode(encode(backup)) == backup


@given(BACKUPS, st.data())
def test_a_part_of_one_is_none(backup: Backup, data: st.DataObject) -> None:
    """Wherever it is cut off."""
    whole = encode(backup)
    with pytest.raises(RefusedBackupError):
        decode(whole[: data.draw(st.integers(0, len(whole) - 1))])


@given(st.binary(max_size=200))
def test_anything_else_is_refused_in_words(untrusted: bytes) -> None:
    """By one error."""
    with pytest.raises(RefusedBackupError, match="does not say what a backup says"):
        decode(untrusted)


def test_a_vps_is_written_as_the_plan_says() -> None:
    """The members that others read: vpsId, secretContainerRef, secrets with ref and description."""
    (vps,) = json.loads(encode(ONE))["vpses"]
    assert vps["vpsId"] == "vps-1"
    assert vps["secretContainerRef"] == f"{BASE}/containers/{uuid(1)}"
    assert vps["secrets"]["A"]["ref"] == f"{BASE}/secrets/{uuid(2)}"
    assert vps["secrets"]["A"]["description"] == "vps-1/A"
    assert vps["secrets"]["B"]["ref"] is None


def first(whole: dict[str, Any]) -> dict[str, Any]:
    """Return the VPS of ONE."""
    vps: dict[str, Any] = whole["vpses"][0]
    return vps


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda whole: whole.update(format="other"), "no backup of VPS secrets"),
        (lambda whole: whole.update(version=2), "a newer program may read it"),
        (lambda whole: whole.pop("cloud"), "other keys"),
        (lambda whole: whole.update(more=1), "other keys"),
        (lambda whole: whole.update(deployment="mine"), "deployment"),
        (lambda whole: whole.update(made="yesterday"), "made is not a date"),
        (lambda whole: whole.update(barbican="file:///etc/v1"), "barbican"),
        (lambda whole: whole.update(blueprints={}), "blueprint that is not there"),
        (lambda whole: whole["blueprints"].update(x=["y"]), "not a text"),
        (lambda whole: whole["blueprints"].update(x="\x1b[2J"), "can't be printed"),
        (lambda whole: whole.update(cloud="x" * 300_000), "at most"),
        (lambda whole: whole.update(vpses={}), "not an array"),
        (lambda whole: whole["vpses"].append(first(whole)), "twice"),
        (lambda whole: first(whole).update(vpsId="../x"), "vpsId"),
        (lambda whole: first(whole).update(wanted="retired"), "wanted"),
        (lambda whole: first(whole).update(wave=-1), "wave"),
        (lambda whole: first(whole).update(labels={"a": 1}), "a label"),
        (lambda whole: first(whole).update(secretContainerRef=f"{BASE}/containers/x"), "secretContainerRef"),
        (lambda whole: first(whole)["secrets"].update({"../A": {}}), "other keys"),
        (
            lambda whole: first(whole)["secrets"].update({"../A": first(whole)["secrets"]["B"]}),
            "not a secret's name",
        ),
        (
            lambda whole: first(whole)["secrets"]["A"].update(
                ref=f"https://evil.example/v1/secrets/{uuid(2)}"
            ),
            "not a reference into this Barbican",
        ),
        (lambda whole: first(whole)["secrets"]["A"].update(description="vps-2/A"), "full name"),
        (lambda whole: first(whole)["secrets"]["A"].update(due="soon"), "due is not a date"),
        (
            lambda whole: first(whole).update(secrets={f"N{n}": {} for n in range(201)}),
            "more than 200",
        ),
    ],
)
def test_what_breaks_a_rule_is_refused(change: Callable[[dict[str, Any]], object], words: str) -> None:
    """With the rule, and never with what broke it."""
    whole = json.loads(encode(ONE))
    change(whole)
    with pytest.raises(RefusedBackupError, match=words) as caught:
        decode(json.dumps(whole).encode())
    assert "evil" not in str(caught.value)


@pytest.mark.parametrize(
    ("deployment", "later", "most", "words"),
    [
        ("00000000-0000-4000-8000-00000000000e", 0.0, TOO_OLD_S, "of deployment"),
        (DEPLOYMENT, TOO_OLD_S + 1, TOO_OLD_S, "7 d old"),
        (None, 61.0, 60.0, "old; at most"),
        (DEPLOYMENT, -CLOCKS_S - 1, TOO_OLD_S, "in the future, on 2027-01-15T08:00:00Z"),
    ],
)
def test_one_of_elsewhere_or_of_another_time_is_refused(
    deployment: str | None, later: float, most: float, words: str
) -> None:
    """With what it is, and what to do."""
    with pytest.raises(RefusedBackupError, match=words):
        accept(ONE, MADE + later, deployment, most_s=most)


@pytest.mark.parametrize("later", [-CLOCKS_S, 0.0, TOO_OLD_S])
def test_the_right_one_is_taken(later: float) -> None:
    """Of this deployment, or of any where none is known; clocks may differ."""
    accept(ONE, MADE + later, DEPLOYMENT)
    accept(ONE, MADE + later, None)


LISTED = Observed(container=uuid(1), entries=frozenset({Entry(SecretName("A"), 0, uuid(2))}))


@pytest.mark.parametrize(
    ("observed", "lines"),
    [
        ({"vps-1": LISTED}, ()),
        ({}, ("vps-1: Barbican has no container of it",)),
        ({"vps-1": Observed()}, ("vps-1: Barbican has no container of it",)),
        (
            {"vps-1": replace(LISTED, container=uuid(9))},
            (f"vps-1: its container is {uuid(9)}, the backup says {uuid(1)}",),
        ),
        ({"vps-1": replace(LISTED, entries=frozenset())}, ("vps-1/A: the container does not list it",)),
        ({"vps-1": LISTED, "vps-2": LISTED}, ("vps-2: not in the backup",)),
        (
            {
                "vps-1": replace(
                    LISTED,
                    entries=LISTED.entries
                    | {Entry(SecretName("A"), 1, uuid(7)), Entry(SecretName("C"), 0, uuid(8))},
                )
            },
            (
                f"vps-1/A: {uuid(7)} is listed, the backup says {uuid(2)}",
                f"vps-1/C: {uuid(8)} is listed, the backup says None",
            ),
        ),
    ],
)
def test_what_differs_from_barbican_is_told(observed: dict[str, Observed], lines: tuple[str, ...]) -> None:
    """Name by name; the entry with the highest K counts."""
    assert differences(ONE, observed) == lines


def test_a_vps_that_never_had_a_container_does_not_differ() -> None:
    """It was just wanted when the backup was made."""
    fresh = replace(ONE, vpses=(replace(ONE.vpses[0], container=None, secrets={}),))
    assert differences(fresh, {}) == differences(fresh, {"vps-1": Observed()}) == ()
