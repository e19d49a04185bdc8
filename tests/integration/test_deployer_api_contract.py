"""The running API against its own contract, by schemathesis: requests that nobody thought of."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, Final

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import GenerationMode

from deployer.api import contract
from deployer.database import blueprints, vpses
from lab.testbed.deployer import Api, Relay

if TYPE_CHECKING:
    from collections.abc import Iterator

# An endless stream has no end to wait for: tests/integration/test_deployer_api.py listens to it.
SCHEMA: Final = schemathesis.openapi.from_dict(contract.DOCUMENT).exclude(operation_id="streamEvents")
EXAMPLES: Final = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "12"))
THERE: Final = "vps-1"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Give where an API with one VPS is."""
    with Api() as api, Relay(api.socket) as relay:
        with api.database.write() as c:
            blueprints.put(c, time.time(), "backend", '[A]\nkind = "random"\n', "unix:ops")
            vpses.wish(c, time.time(), THERE, "backend", labels={}, actor="unix:ops")
        yield relay.address
        told = api.log.read_text()
        assert "Traceback" not in told
        assert "defect" not in told


@SCHEMA.parametrize()  # type: ignore[untyped-decorator]  # not looked at by mypy: make check does without it
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_every_answer_keeps_the_contract(case: Any, address: str) -> None:
    """For a VPS that nobody knows, and for one that is there."""
    case.call_and_validate(base_url=address)
    if case.meta.generation.mode is GenerationMode.POSITIVE and "id" in (case.path_parameters or {}):
        case.path_parameters["id"] = THERE
        case.call_and_validate(base_url=address)


def test_the_contract_is_whole() -> None:
    """Each operation has an id, a role, a good answer and one for problems; each pattern is anchored."""
    ids = set()
    for path, item in contract.DOCUMENT["paths"].items():
        for method, operation in item.items():
            if method == "parameters":
                continue
            ids.add(operation["operationId"])
            assert operation["x-role"] in {"viewer", "portal", "operator"}, path
            assert "default" in operation["responses"]
            assert {"200", "202"} & set(operation["responses"])
            if method != "get":
                names = [each.get("$ref", "").rpartition("/")[2] for each in operation["parameters"]]
                assert "IdempotencyKey" in names
    assert len(ids) == len(contract.Routes().operations)
    for name, schema in contract.DOCUMENT["components"]["schemas"].items():
        pattern = schema.get("pattern", "^$")
        assert (pattern[0], pattern[-1]) == ("^", "$"), name
    text = contract.TEXT.decode()
    assert not any(word in text for word in ('"format": "binary"', "payload"))
