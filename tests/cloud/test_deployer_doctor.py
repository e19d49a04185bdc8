"""``vps-secrets-deploy doctor`` at a real site: what is well, and what was taken away. It changes nothing."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from sqlalchemy import update

from deployer.database import schema
from lab.testbed.running import ROOT
from lab.testbed.site import Site

if TYPE_CHECKING:
    from pathlib import Path

    from lab.testbed.cloud import Cloud

BLUEPRINT = '[JWT_SECRET]\nkind = "random"\nrotate = "30d"\n'


def doctor(site: Site) -> tuple[int, list[dict[str, Any]]]:
    """Run it; return its exit status and what it found."""
    done = site.command("doctor", "--json", "--config", str(site.path))
    assert "Traceback" not in done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)["findings"]
    secret = (site.folder / "worker-credential").read_text()
    assert secret not in done.stdout + done.stderr
    return done.returncode, found


def levels(found: list[dict[str, Any]], what: str) -> set[str]:
    """Return the levels of what was found about one thing."""
    return {one["level"] for one in found if one["what"] == what}


def failed(found: list[dict[str, Any]]) -> set[str]:
    """Return what has failed."""
    return {one["what"] for one in found if one["level"] == "failure"}


def test_a_site_that_is_well_and_one_that_is_not(cloud: Cloud, tmp_path: Path) -> None:
    """All is ok, asked by GET alone; then registrar and API are gone, and nobody looks: each has a remedy."""
    with Site(cloud, tmp_path, registrar=False) as site:
        site.serve(BLUEPRINT)
        site.command("vps", "add", "vps-doctor-9", "--blueprint", "backend")
        calls = len(cloud.testbed.log("barbican").read_text().splitlines())
        status, found = doctor(site)
        assert (status, failed(found)) == (0, set()), [one for one in found if one["level"] == "failure"]
        for what in ("configuration", "database", "worker", "api", "VPSs", "registrar", "clock", "Barbican"):
            assert levels(found, what) == {"ok"}, what
        for what in ("login of the worker", "roles of the worker", "account of the worker", "disk"):
            assert levels(found, what) == {"ok"}, what
        done = cloud.testbed.log("barbican").read_text().splitlines()[calls:]
        asked = [line for line in done if "Processed request" in line and "doctor" not in line]
        assert not [line for line in asked if " - GET " not in line and "vps-doctor-9" not in line]
        pages = [one["remedy"] for one in found if one["remedy"].startswith("docs/runbooks/")]
        assert all((ROOT / page).exists() for page in pages)
        site.away()
        with site.database.write() as c:
            c.execute(update(schema.vps).values(looked_at=time.time() - 1e6))
    _, found = doctor(site)
    assert {"api", "registrar", "worker"} <= failed(found)
    assert all(one["remedy"] for one in found if one["level"] == "failure")
