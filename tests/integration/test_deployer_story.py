"""The whole deployer as its users meet it: serve, command and API, with the real Keystone and Barbican."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lab.testbed.site import Site

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab.testbed.cloud import Cloud

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
BLUEPRINT = """
[JWT_SECRET]
kind = "random"
rotate = "30d"
group = "session"
[SESSION_SECRET]
kind = "random"
rotate = "30d"
group = "session"
[SMTP_PASSWORD]
kind = "external"
rotate = "180d"
"""
CANARY = "canary-9d1f-smtp"


class Command:
    """``vps-secrets-deploy`` at a site."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def __call__(self, *arguments: str, given: str = "", status: int = 0) -> str:
        """Run a command; return what it prints."""
        ran = self._site.command(*arguments, given=given)
        assert ran.returncode == status, ran.stdout + ran.stderr + self._site.logs()
        assert CANARY not in ran.stdout + ran.stderr
        return ran.stdout + ran.stderr


@pytest.fixture
def site(cloud: Cloud, tmp_path: Path) -> Iterator[Site]:
    """A site whose deployer runs, with one blueprint applied."""
    with Site(cloud, tmp_path, worker='sweep = "200ms"\n', registrar=False) as made:
        made.serve(BLUEPRINT)
        yield made


@pytest.mark.timeout(600)
def test_the_story(site: Site) -> None:
    """A VPS is wished, gets its values, is rotated, rolled back, revoked, given back and retired."""
    run = Command(site)
    assert "provision vps-1: done" in run(
        "vps", "add", "vps-1", "--blueprint", "backend", "--label", "env=test"
    )
    assert "SMTP_PASSWORD" in run("vps", "show", "vps-1")
    run("set", "vps-1", "SMTP_PASSWORD", given=CANARY)
    names = {one["name"]: one for one in json.loads(run("vps", "show", "vps-1", "--json"))["secrets"]}
    assert all(one["version"] for one in names.values())
    run("rotate", "vps-1", "--reason", "test", "--no-wait")
    before = names["JWT_SECRET"]["version"]

    def version() -> str:
        shown = json.loads(run("vps", "show", "vps-1", "--json"))["secrets"]
        return str(next(one["version"] for one in shown if one["name"] == "JWT_SECRET"))

    end = time.monotonic() + 60
    while version() == before:
        assert time.monotonic() < end, "never rotated"
        time.sleep(0.2)
    assert "revoke vps-1: done" in run("vps", "revoke", "vps-1", "--reason", "test")
    assert "restore-access vps-1: done" in run("vps", "restore-access", "vps-1", "--reason", "test")
    assert "done" in run("vps", "retire", "vps-1", "--reason", "test", "--confirm", "vps-1")
    run("vps", "show", "vps-1", status=1)
    assert CANARY not in site.logs()


def test_what_is_wrong_is_told(site: Site) -> None:
    """Unknown VPS, unknown blueprint, a value for what is made; an API that is away."""
    run = Command(site)
    assert "no VPS" in run("vps", "show", "vps-9", status=1)
    assert "blueprint" in run("vps", "add", "vps-9", "--blueprint", "nothing", status=1)
    run("status")
    missing = site.folder / "nothing.sock"
    assert "nothing answers" in run("status", "--socket", str(missing), status=3)
