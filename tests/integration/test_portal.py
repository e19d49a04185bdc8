"""docs/examples/portal.mjs: a portal of thirty lines asks for a VPS over the real API, and waits for it."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from typing import TYPE_CHECKING, Final

import pytest

from deployer.database import blueprints
from lab.testbed.deployer import Api, until
from lab.testbed.running import ROOT
from tests.integration.test_deployer_api import as_the_worker

if TYPE_CHECKING:
    from collections.abc import Iterator

PORTAL: Final = ROOT / "docs" / "examples" / "portal.mjs"
NODE: Final = shutil.which("node") or "node is missing"


@pytest.fixture
def api() -> Iterator[Api]:
    """Give an API with a blueprint."""
    with Api() as made:
        with made.database.write() as c:
            blueprints.put(c, time.time(), "backend", '[A]\nkind = "random"\n', "unix:ops")
        yield made


def portal(api: Api, *words: str) -> subprocess.Popen[str]:
    """Start the portal."""
    return subprocess.Popen(
        [NODE, str(PORTAL), *words],
        env={"PATH": os.environ["PATH"], "DEPLOYER_SOCKET": str(api.socket)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_portal_asks_for_a_vps_and_waits(api: Api) -> None:
    """It says when all is there; run again, it is the same operation; labels arrive."""
    asking = portal(api, "vps-1", "backend", "env=prod", "tier=web")
    until(lambda: bool(api.ask("GET", "/v1/vps").json["items"]))
    as_the_worker(api.database)
    told, wrong = asking.communicate(timeout=120)
    assert (asking.returncode, wrong) == (0, "")
    operation, state = told.splitlines()
    assert state == "vps-1: done (fine, 5 secrets)"
    again, _ = portal(api, "vps-1", "backend", "env=prod", "tier=web").communicate(timeout=120)
    assert again.splitlines() == [operation, state]
    assert api.ask("GET", "/v1/vps/vps-1").json["vps"]["labels"] == {"env": "prod", "tier": "web"}


def test_a_refusal_is_told_in_words(api: Api) -> None:
    """By the problem's title and detail."""
    asking = portal(api, "vps-1", "absent")
    _, wrong = asking.communicate(timeout=120)
    assert asking.returncode == 1
    assert "No blueprint of this name is applied" in wrong


def test_the_example_is_short() -> None:
    """At most 30 lines, comments and all."""
    assert len(PORTAL.read_text().splitlines()) <= 32
    code = [line for line in PORTAL.read_text().splitlines() if line.strip() and not line.startswith("//")]
    assert len(code) <= 30
