"""What docs/rollout.md says of a VPS that was set up by hand, as its commands, with the whole deployer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from deployer.database import secrets
from lab.testbed.site import Site
from tests.cloud.test_join_keep import VALUES, Application, set_up_by_hand
from tests.integration.drilling import Command, Serve

if TYPE_CHECKING:
    from pathlib import Path

    from lab.testbed.cloud import Cloud

BLUEPRINT = """
[JWT_SECRET]
kind = "random"
rotate = "30d"
[DATABASE_URL]
kind = "external"
rotate = "180d"
"""


def sealed_to(site: Site, vps_id: str) -> dict[str, str]:
    """Return to which key the newest version of each name is sealed, nothing where it is not."""
    with site.database.read() as c:
        return {row.name: row.sealed_to for row in reversed(secrets.versions_of(c, vps_id))}


@pytest.mark.timeout(900)
def test_adopted_joined_and_sealed(either: Cloud, tmp_path: Path) -> None:
    """The application reads all the time, its values stay, and each is sealed when it rotates next."""
    folder = tmp_path / "site"
    folder.mkdir()
    machine = tmp_path / "machine"
    machine.mkdir()
    with Site(either, folder, registrar=False) as site, set_up_by_hand(site.tenant, None, machine) as by_hand:
        (folder / "blueprints" / "old.toml").write_text(BLUEPRINT)
        run, vps_id = Command(site), by_hand.vps.vps_id
        run.local("blueprint", "apply")
        with Application(by_hand.unit.app) as application:
            run.local("adopt", vps_id, "--blueprint", "old")
            Serve(site)
            run.local("look", vps_id)
            assert by_hand.unit.get("/v1/secrets/JWT_SECRET").body == VALUES["JWT_SECRET"]
            said = run("vps", "claim", vps_id, "--keep", "--output", str(machine / "claim.json"))
            assert "vps-secrets join --keep --claim FILE" in said
            done = by_hand.join("--keep")
            assert done.returncode == 0, done.stderr + site.logs()
            by_hand.reads()
            for name, value in VALUES.items():
                assert by_hand.unit.get(f"/v1/secrets/{name}").body == value
            run("vps", "add", vps_id, "--blueprint", "old", "--sealing", "required")
            run("rotate", vps_id, "JWT_SECRET", "--reason", "sealed from now on", "--no-wait")
            run.local("look", vps_id)

            def has_changed() -> bool:
                by_hand.unit.ask_control("/v1/refresh", "POST")
                return by_hand.unit.get("/v1/secrets/JWT_SECRET").body != VALUES["JWT_SECRET"]

            by_hand.restart()  # fetch has the key from now on, as each of its processes has where systemd is
            by_hand.unit.until(has_changed, 60)
        assert application.failures == []
        assert by_hand.unit.get("/v1/secrets/DATABASE_URL").body == VALUES["DATABASE_URL"]
        keys = sealed_to(site, vps_id)
        assert (bool(keys["JWT_SECRET"]), keys["DATABASE_URL"]) == (True, "")
