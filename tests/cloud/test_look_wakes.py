"""``look`` and ``drill`` wake the worker: nobody waits for its next sweep at night."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from lab.testbed.running import ROOT
from lab.testbed.site import Site

if TYPE_CHECKING:
    from pathlib import Path

    from lab.testbed.cloud import Cloud


def test_the_worker_is_woken(cloud: Cloud, tmp_path: Path) -> None:
    """With a sweep that would come in an hour."""
    with Site(cloud, tmp_path, worker='sweep = "1h"\ninterval = "1h"\n') as site:
        (tmp_path / "blueprints/drill.toml").write_text('[A]\nkind = "random"\nrotate = "30d"\n')

        def run(*words: str) -> str:
            command = [sys.executable, "-m", "deployer.cli", *words, "--config", str(site.path)]
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, cwd=ROOT, env=os.environ.copy()
            )
            assert done.returncode == 0, f"{done.stdout}{done.stderr}{site.logs()}"
            return done.stdout

        run("blueprint", "apply")
        site.start("deployer.worker", tmp_path / "worker.sock")
        assert "a deleted secret is made anew" in run("drill", "--timeout", "10m", "--most", "10m")
        assert "0 with a failure" in run("look", "--all", "--timeout", "10m")
