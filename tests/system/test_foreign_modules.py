"""What root has put in /usr/local with pip, or for all of Python, is not this program's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.system.installed import AGENT, VALUES

if TYPE_CHECKING:
    from pathlib import Path

    from lab.testbed.cloud import Cloud
    from tests.system.installed import Installed

PLANT = """
import os, sys
from pathlib import Path
minor = f"python3.{sys.version_info.minor}"
packages = Path("/usr/lib/python3/dist-packages")
names = {path.name.split(".")[0] for path in packages.iterdir()} | set(sys.stdlib_module_names)
names |= {"agent", "common", "sitecustomize", "usercustomize", "apport_python_hook"}
wanted = {"requests", "urllib3", "certifi", "idna", "keystoneauth1", "barbicanclient", "yaml"}
wanted |= {"tomlkit"}
assert wanted <= names, wanted - names
pth = 'import os; open("/run/foreign-module", "a").write("pth "); os._exit(98)'
broken = 'open("/run/foreign-module", "a").write(__name__ + chr(10)); raise SystemExit(99)'
places = Path("/usr/local/lib", minor, "dist-packages"), Path("/root/.local/lib", minor, "site-packages")
for place in places:
    place.mkdir(parents=True, exist_ok=True)
    for name in names:
        if name.isidentifier():
            (place / f"{name}.py").write_text(broken)
    (place / "foreign.pth").write_text(pth)
packages.joinpath("foreign.pth").write_text('import os; os._exit(97)')
for name in ("sitecustomize", "usercustomize"):
    packages.joinpath(name + ".py").write_text(broken)
"""
"""A broken module for everything that the distribution has, and what Python itself runs at its start."""
PROGRAM = "#!/bin/sh\necho program >>/run/foreign-module\nexit 96\n"


def test_broken_modules_of_every_dependency(bare: Installed, cloud: Cloud, rootfs: Path) -> None:
    """Command, serve and fetch start, set up, read and refresh; no foreign line runs."""
    bare.cloud, bare.vps = cloud, cloud.vps(f"vps-foreign-{rootfs.name}", VALUES)
    bare.run("python3 -", given=PLANT)
    assert bare.run("python3 -c pass", check=False).code in {97, 98}, "another program runs them"
    bare.run("rm -f /run/foreign-module")
    for name in ("systemctl", "systemd-creds", "stat", "sleep", "cat"):
        bare.write(f"/usr/local/bin/{name}", PROGRAM, 0o755)
    restart = f"/usr/bin/systemctl restart {AGENT}"
    assert "first reading  2 secrets" in bare.setup().out
    bare.run(f"PYTHONPATH=/usr/local/lib/python3/dist-packages {restart}")
    bare.refresh()
    assert bare.reads("JWT_SECRET", VALUES["JWT_SECRET"])
    bare.run("vps-secrets-agent --check-config")
    bare.run("/usr/lib/vps-secrets-agent/vps-secrets-rotated nothing")
    assert bare.run("/usr/bin/cat /run/foreign-module", check=False).out == ""
