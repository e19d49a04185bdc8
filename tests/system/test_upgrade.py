"""An upgrade to a package of another version and the way back, under load, with the cloud away."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from tests.system.installed import AGENT, APP, NEWER, USER, VALUES
from tests.system.load import clients, results

if TYPE_CHECKING:
    from pathlib import Path

    from tests.system.installed import Installed

READ = f"runuser -u {USER} -- {APP} http://x/v1/secrets/JWT_SECRET"


def _install(machine: Installed, package: Path) -> None:
    """Copy a package into the machine and install it."""
    machine.copy(package, f"/root/{package.name}")
    machine.run(f"apt-get install --yes --allow-downgrades /root/{package.name}")


def test_an_upgrade_and_a_downgrade_lose_nothing(own: Installed, deb: Path, newer: Path) -> None:
    """Not one request of four clients; a watcher stays and is told the next rotation."""
    generation = own.status()["generation"]
    watcher = own.start("runuser", "-u", USER, "--", "vps-secrets", "watch", "--json")
    own.until(lambda: own.status()["watchers"] == 1)
    own.cloud.testbed.kill("barbican")
    own.cloud.testbed.kill("keystone")
    started = clients(own, 100)
    for package, version in ((newer, NEWER), (deb, deb.name.split("_")[1])):
        _install(own, package)
        status = own.status()
        assert (status["agent"]["version"], status["generation"]) == (version, generation)
        for name, value in VALUES.items():
            assert own.reads(name, value)
    own.run("touch /tmp/stop")
    for result in results(started):
        assert result["failed"] == {}, result
    own.until(lambda: own.status()["watchers"] == 1)
    own.cloud.testbed.restart("keystone")
    own.cloud.testbed.restart("barbican")
    own.cloud.deployment.rotate(own.vps, {"JWT_SECRET": b"canary-after-the-upgrade"})
    own.refresh()
    assert watcher.stdout is not None
    told = [json.loads(watcher.stdout.readline()) for _ in range(3)]
    assert [line["name"] for line in told] == ["DATABASE_URL", "JWT_SECRET", "JWT_SECRET"]
    assert told[1]["version"] != told[2]["version"]
    assert own.digest("JWT_SECRET") == hashlib.sha256(b"canary-after-the-upgrade").hexdigest()


def test_a_watcher_goes_on_after_a_kill(own: Installed) -> None:
    """Its connection is lost with the process; it reads all again and hears the next change."""
    watcher = own.start("runuser", "-u", USER, "--", "vps-secrets", "watch", "--json")
    own.until(lambda: own.status()["watchers"] == 1)
    own.kill()
    own.until(lambda: own.status()["watchers"] == 1)
    own.cloud.deployment.rotate(own.vps, {"JWT_SECRET": b"canary-after-the-kill"})
    own.refresh()
    assert watcher.stdout is not None
    assert [json.loads(watcher.stdout.readline())["name"] for _ in range(3)][2] == "JWT_SECRET"


def test_a_crash_loop_takes_no_socket_away(own: Installed) -> None:
    """An agent that can't even start: systemd tries on, who asks waits, and is answered once it is mended."""
    drop_in = "/etc/systemd/system/vps-secrets-agent.service.d/broken.conf"
    own.write(drop_in, "[Service]\nExecStart=\nExecStart=/bin/false\n")
    own.run("systemctl daemon-reload")
    own.kill()
    restarts = 20
    own.until(lambda: int(own.show(AGENT, "NRestarts")) > restarts)
    for name in ("app", "control", "credentials", "fetch"):
        assert own.show(f"vps-secrets-{name}.socket", "ActiveState") == "active"
    waiting = own.start("sh", "-c", f"{READ} | sha256sum")
    restarts = int(own.show(AGENT, "NRestarts")) + 2
    own.until(lambda: int(own.show(AGENT, "NRestarts")) > restarts)
    assert waiting.poll() is None
    own.run(f"rm {drop_in}; systemctl daemon-reload")
    out, _ = waiting.communicate(timeout=60)
    assert out.split()[0] == hashlib.sha256(VALUES["JWT_SECRET"]).hexdigest()
