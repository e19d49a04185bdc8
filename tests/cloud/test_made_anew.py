"""A machine that is made anew joins under its old id: what the former one has ends, on both releases.

With Barbican's cache of tokens as it is shipped (300 s): a token that it has answered reads whatever an ACL
gives its user, whether there still is such a user or not.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from lab.testbed import first_boot
from lab.testbed.cloud import Cloud
from lab.testbed.site import Site
from lab.testbed.testbed import Options
from tests.cloud.conftest import BUILD
from tests.integration.drilling import Command, Joined, until

if TYPE_CHECKING:
    from pathlib import Path

VPS = "vps-anew-001"
NAMES = frozenset({"JWT_SECRET", "SESSION_SECRET", "ENCRYPTION_KEY"})


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["cloud-venv", pytest.param("cloud-2025.1-venv", marks=pytest.mark.nightly)])
def test_the_former_machine_is_shut_out_at_once(name: str, tmp_path: Path) -> None:
    """By the command alone: no sweep of the worker comes, and no order. Then the new one has its values."""
    with (
        Cloud(Options(venv=BUILD / name)) as cloud,
        Site(cloud, tmp_path, worker='sweep = "1h"\n', registrar=False, sealing="required") as site,
    ):
        site.serve(first_boot.BLUEPRINT)
        run = Command(site)
        first_boot.wished(site, VPS)
        former = Joined(site, "former", first_boot.claim_in_file(site, VPS))
        until(lambda: former.opened().keys() == NAMES, told=site.logs)
        former.says_that_it_serves()
        until(lambda: '"state": "serving"' in run("vps", "show", VPS, "--json"))
        versions = former.listed()
        again = first_boot.claim_in_file(site, VPS, again=True)
        began = time.monotonic()
        until(former.is_out)
        until(lambda: not any(map(former.reads, versions.values())))
        print(f"{name}: the former machine reads nothing {time.monotonic() - began:.1f} s after the claim")  # noqa: T201
        anew = Joined(site, "anew", again)
        until(
            lambda: anew.opened().keys() == NAMES - {"ENCRYPTION_KEY"} and not anew.doubled(), told=site.logs
        )
        assert former.is_out()
        assert not any(map(former.reads, {**versions, **anew.listed()}.values()))
