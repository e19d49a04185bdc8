"""A worker whose VPS users are of a pool: what only a person can do is told by operation and status."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

from lab.testbed import tenant
from lab.testbed.running import ROOT
from lab.testbed.site import Site
from tests.cloud.test_registrar_pool import people_made

if TYPE_CHECKING:
    from pathlib import Path

    from lab.testbed.cloud import Cloud


def test_a_user_of_a_pool_is_left_to_a_person(cloud: Cloud, tmp_path: Path) -> None:
    """Revoked, given back, retired: each is done, nothing is failing, and the user is named each time."""
    (tmp_path / "pool.json").touch(0o600)
    with Site(cloud, tmp_path, worker='sweep = "500ms"\n', registrar=False) as site:
        (member,) = people_made(site.tenant, 1)
        (tmp_path / "pool.json").write_text(json.dumps([member]))
        pool = f'pool_file = "{tmp_path}/pool.json"\npool_state = "{tmp_path}/pool-state"\n'
        text = re.sub(r'(\[registrar\]\nsocket = "[^"]*"\n)[^\[]*', rf"\1{pool}", site.path.read_text())
        site.path.write_text(text)
        (tmp_path / "blueprints/backend.toml").write_text('[A]\nkind = "random"\nrotate = "30d"\n')

        def run(*words: str, config: bool = False) -> str:
            command = [sys.executable, "-m", "deployer.cli", *words]
            command += ["--config", str(site.path)] if config else []
            environment = os.environ | {"VPS_SECRETS_DEPLOY_SOCKET": str(tmp_path / "api.sock")}
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment
            )
            assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}{site.logs()}"
            return done.stdout

        run("blueprint", "apply", config=True)
        with tenant.Registrar(site.path):
            site.start("deployer.worker", tmp_path / "worker.sock")
            site.start("deployer.api", tmp_path / "api.sock")
            run("vps", "add", "vps-1", "--blueprint", "backend")
            orders = (("revoke", "disable"), ("restore-access", "enable"), ("retire", "delete"))
            for number, (verb, word) in enumerate(orders, 1):
                confirm = ("--confirm", "vps-1") if verb == "retire" else ()
                said = run("vps", verb, "vps-1", "--reason", "test", *confirm)
                assert f"by hand: {word} the user {member['userId']} of vps-1 in the cloud's panel" in said
                status = run("status")  # which exits with 0: nothing is failing
                assert status.count("by hand, of the last 7 days: ") == number
