"""deployer/api/contract.py: what a request may be, told by place and rule; and the documents say the same."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployer.api import contract, problems
from deployer.api.callers import Peer, Roles, Subject, subject_of
from deployer.api.contract import Routes
from deployer.api.handlers import Ask
from deployer.api.problems import Problem, RequestError
from deployer.config.model import Role, RoleRule

ROUTES = Routes()
WISH, _ = ROUTES.find("PUT", "/v1/vps/vps-1")
DOCUMENT = (Path(__file__).parents[2] / "docs" / "deployment.md").read_text()


def refusal(untrusted: bytes) -> list[dict[str, str]]:
    """Return what is said to be wrong with a wish."""
    with pytest.raises(RequestError) as caught:
        WISH.read_body(untrusted)
    content = caught.value.content()
    assert content["type"] == "urn:vps-secrets:problem:bad-body"
    errors = content.get("errors", [])
    assert isinstance(errors, list)
    return errors


def test_each_mistake_is_told_by_place_and_rule() -> None:
    """All of them at once, in the contract's words."""
    body = {"labels": {"env": 1, "Z": "x"}, "wave": -1, "hunter2": "hunter3"}
    found = {(each["where"], each["rule"].split(":")[0]) for each in refusal(json.dumps(body).encode())}
    assert found == {
        ("/", "needs blueprint"),
        ("/", "has a member that is none of"),
        ("/labels/*", "must be of type string"),
        ("/labels", "must match ^[a-z0-9][a-z0-9._-]{0,62}$"),
        ("/wave", "must be at least 0"),
    }


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text(), each, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from([each for each in ROUTES.operations if each.body is not None]), JSON)
def test_whatever_is_sent_is_taken_or_refused_without_a_word_of_it(operation: Any, value: Any) -> None:
    """Nothing else is raised, and no refusal quotes."""
    canary = "hunter2-canary"
    body = json.dumps({"reason": value, "blueprint": canary * 9, canary: value, "labels": {canary: value}})
    told = ""
    try:
        operation.read_body(body.encode("utf-8", "replace"))
    except RequestError as error:
        told = json.dumps(error.content()) + str(error)
    assert canary not in told


@given(st.binary(max_size=64))
def test_bytes_are_no_trouble(body: bytes) -> None:
    """Anything may come."""
    with pytest.raises(RequestError):
        WISH.read_body(body)


@given(st.text(max_size=40))
def test_queries_are_no_trouble(query: str) -> None:
    """Taken, or refused with the names that there are."""
    operation, _ = ROUTES.find("GET", "/v1/vps")
    refused = problems.BAD_PARAMETER
    found: dict[str, Any] = {"limit": 1, "after": None, "state": None, "label": None}
    try:
        found = operation.read_query(query)
    except RequestError as error:
        refused = error.problem
    assert refused is problems.BAD_PARAMETER
    assert set(found) == {"limit", "after", "state", "label"}


def test_a_last_line_feed_is_no_part_of_a_name() -> None:
    """In Python ``$`` is before it, too."""
    with pytest.raises(RequestError):
        ROUTES.find("GET", "/v1/vps/vps-1\n")
    assert refusal(b'{"blueprint": "backend\\n"}')[0]["where"] == "/blueprint"


def test_roles() -> None:
    """The highest that fits; none without credentials; root is an operator; unknown names fit nobody."""
    rules = (
        RoleRule(Role.VIEWER, group="root"),
        RoleRule(Role.PORTAL, user="nobody"),
        RoleRule(Role.OPERATOR, user="no-such-user"),
        RoleRule(Role.OPERATOR, group="no-such-group"),
        RoleRule(Role.PORTAL, certificate="CN=portal"),
        RoleRule(Role.OPERATOR, certificate="OU=ops"),
    )
    roles = Roles(rules)
    assert roles.of_peer(Peer(65534, frozenset({0}))) is None  # nothing was looked up yet
    roles.look_up()
    assert roles.unknown == ("no-such-group", "no-such-user")
    assert roles.of_peer(None) is None
    assert roles.of_peer(Peer(0, frozenset({0}))) is Role.OPERATOR
    assert roles.of_peer(Peer(4711, frozenset({0}))) is Role.VIEWER
    assert roles.of_peer(Peer(65534, frozenset({0}))) is Role.PORTAL
    assert roles.of_peer(Peer(4711, frozenset({4711}))) is None
    assert roles.of_subject(None) is None
    assert roles.of_subject(Subject(frozenset({"CN=portal", "OU=ops"}))) is Role.OPERATOR
    assert roles.of_subject(Subject(frozenset({"CN=Portal"}))) is None


def test_names_in_a_certificate() -> None:
    """Only CN and OU count, and only in one printable line."""
    named = {
        "subject": ((("commonName", "portal"),), (("organizationalUnitName", "ops"), ("countryName", "NL")))
    }
    assert subject_of(named) == Subject(frozenset({"CN=portal", "OU=ops"}))
    for none in (None, {}, {"subject": ()}, {"subject": ((("commonName", "a\nCN=portal"),),)}):
        assert subject_of(none) is None


def test_the_document_has_every_request_with_its_role() -> None:
    """And none that there is not."""
    rows = re.findall(r"^\| (`[A-Z]+ /.*?) \| (\w+) \|", DOCUMENT, re.MULTILINE)
    documented = {
        (method, re.sub(r"\bID\b", "*", path.replace("NAME", "*")), role)
        for requests, role in rows
        for method, path in re.findall(r"`([A-Z]+) (/[^`]*)`", requests)
    }
    assert documented == {
        (each.method, re.sub(r"\{[a-z]+\}", "*", each.template), each.role.name.lower())
        for each in ROUTES.operations
    }


def test_the_document_has_every_problem() -> None:
    """With its status."""
    there = {(each.status, each.type) for each in vars(problems).values() if isinstance(each, Problem)}
    documented = set()
    for statuses, types in re.findall(r"^\| ([0-9, ]+) \| (`[a-z`, -]+) \|", DOCUMENT, re.MULTILINE):
        named = re.findall(r"`([a-z-]+)`", types)
        numbers = [int(each) for each in statuses.split(",")]
        documented |= set(zip(numbers * len(named) if len(numbers) == 1 else numbers, named, strict=False))
    assert documented == there


def test_what_is_asked_shows_no_value() -> None:
    """A request in memory has no field in which one stays."""
    assert set(Ask.__slots__) == {"caller", "path", "query", "body", "key", "receive"}
    assert contract.DOCUMENT["paths"]["/v1/vps/{id}/secrets/{name}"]["put"]["x-most-bytes"] == 65536
