"""What goes wrong on a real machine, and whether journal and status then say what to do."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.system.installed import AGENT, APP, USER, VALUES

if TYPE_CHECKING:
    from tests.system.installed import Installed

FILE = "/etc/vps-secrets-agent/agent.toml"
FETCH = "vps-secrets-fetch@*"
ALL_SOCKETS = "vps-secrets-app.socket vps-secrets-control.socket vps-secrets-credentials.socket"


def _add(machine: Installed, text: str) -> int:
    """Add to the configuration and reload; return the exit status of that."""
    machine.write("/root/more", text)
    return machine.run(f"cat /root/more >>{FILE}; systemctl reload {AGENT}", check=False).code


def _restart(machine: Installed) -> None:
    machine.run(f"systemctl stop {AGENT}; systemctl start {AGENT}")


def _short_timeout(machine: Installed) -> None:
    machine.run(f'sed -i \'/^\\[fetch\\]/a timeout = "3s"\\nconnect_timeout = "2s"\' {FILE}')
    machine.run(f"systemctl reload {AGENT}")


def _reading(machine: Installed) -> list[int]:
    """Return the process ids of readings under way."""
    out = machine.run(f"systemctl show --property MainPID --value '{FETCH}.service'", check=False).out
    return [int(line) for line in out.split() if line != "0"]


def test_a_configuration_that_cant_be_read(own: Installed) -> None:
    """Permissions that are wrong: it waits and says so; mended and reloaded it serves, without a restart."""
    own.run(f"chmod 600 {FILE}")
    _restart(own)
    assert "can't be read: Permission denied" in own.show(AGENT, "StatusText")
    assert "can't be read: Permission denied" in own.run("vps-secrets status", check=False).err
    own.run(f"chmod 644 {FILE}; systemctl reload {AGENT}")
    own.until(lambda: own.reads("JWT_SECRET", VALUES["JWT_SECRET"]))
    assert own.show(AGENT, "NRestarts") == "0"


def test_grants_for_nobody_and_grants_that_change_nothing(own: Installed) -> None:
    """A group that does not exist is a warning; a grant without an effect refuses the reload."""
    assert _add(own, '\n[[grant]]\ngroup = "no-such-group"\nsecrets = ["*"]\n') == 0
    own.until_said("its group does not exist on this machine", "--unit", AGENT)
    assert any("no-such-group" in warning for warning in own.status()["warnings"])
    assert _add(own, f'\n[[grant]]\nuser = "{USER}"\nsecrets = ["JWT_SECRET"]\n') == 1
    own.until_said("grant 3: has no effect: grant 1 allows all of it", "--unit", AGENT)
    assert own.reads("JWT_SECRET", VALUES["JWT_SECRET"])
    own.until(lambda: "the last reload was refused" in own.show(AGENT, "StatusText"))


@pytest.mark.parametrize("key", ["container", "vps_id"])
def test_a_reload_can_not_make_it_another_vps_agent(own: Installed, key: str) -> None:
    """It is refused, "systemctl reload" fails and says why, and the values of this VPS are served on."""
    own.run(f"cp {FILE} /root/good")
    new = "vps-prod-999" if key == "vps_id" else "00000000-0000-4000-8000-000000000000"
    own.run(f"sed -i 's|^{key} = .*|{key} = \"{new}\"|' {FILE}")
    assert own.run(f"systemctl reload {AGENT}", check=False).code == 1
    own.until_said(f"{key}: can't be changed by a reload", "--unit", AGENT)
    refused = own.run("vps-secrets status --configuration", check=False)
    assert (refused.code, "can't be changed by a reload" in refused.out) == (1, True)
    assert own.reads("JWT_SECRET", VALUES["JWT_SECRET"])
    own.run(f"cp /root/good {FILE}; systemctl reload {AGENT}; vps-secrets status --configuration")


def test_a_credential_that_is_not_there(own: Installed) -> None:
    """What is held is served on; status names the step and where to look."""
    own.run("rm /etc/vps-secrets-agent/keystone-credential.cred")
    told = own.run("vps-secrets refresh", check=False)
    assert told.code == 1
    for words in ("journalctl -u 'vps-secrets-fetch@*'", "243/CREDENTIALS", "vps-secrets setup --replace"):
        assert words in told.out
    assert "CREDENTIALS" in own.messages("--unit", FETCH)
    assert own.reads("JWT_SECRET", VALUES["JWT_SECRET"])


def test_a_path_that_something_else_has_taken(own: Installed) -> None:
    """A plain file: systemd takes the place back; a directory: it says what is in the way."""
    stop = f"systemctl stop vps-secrets-app.socket {AGENT}"
    own.run(f"{stop}; touch /run/vps-secrets/app.sock; systemctl start vps-secrets-app.socket")
    own.until(lambda: own.reads("JWT_SECRET", VALUES["JWT_SECRET"]))
    own.run(f"{stop}; mkdir /run/vps-secrets/app.sock; systemctl start vps-secrets-app.socket", check=False)
    assert own.show("vps-secrets-app.socket", "ActiveState") == "failed"
    assert "/run/vps-secrets/app.sock" in own.messages("--unit", "vps-secrets-app.socket")
    own.run("rmdir /run/vps-secrets/app.sock; systemctl restart vps-secrets-app.socket")
    own.until(lambda: own.reads("JWT_SECRET", VALUES["JWT_SECRET"]))


def _journal_lines(machine: Installed) -> int:
    return len(machine.journal())


def test_a_socket_whose_group_is_gone(own: Installed) -> None:
    """No loop, over a restart, a crash and a boot; the others answer; what the status says puts it right."""
    socket, drop_in = "vps-secrets-app.socket", "/etc/systemd/system/vps-secrets-app.socket.d/group.conf"
    generation = own.status()["generation"]
    own.write(drop_in, "[Socket]\nSocketGroup=gone\n")
    own.run("systemctl daemon-reload")
    refused = own.run(f"systemctl restart {socket}", check=False)
    assert refused.code == 1
    own.until(lambda: own.status().get("generation") == generation)
    lines = _journal_lines(own)
    (warning,) = (text for text in own.status()["warnings"] if "is missing" in text)
    assert warning.startswith("app.sock is missing")
    own.until(lambda: "app.sock is missing" in own.show(AGENT, "StatusText"))
    own.kill()
    own.until(lambda: own.status().get("generation") == generation)
    own.run(f"systemctl stop {ALL_SOCKETS} {AGENT}; systemctl start {ALL_SOCKETS}", check=False)  # as a boot
    own.until(lambda: own.status().get("state") == "ready")
    for _ in range(20):
        own.status()
    time.sleep(5)  # for a loop to show
    assert _journal_lines(own) - lines < 200, "the loop wrote more in a second"
    assert "Failed to resolve group gone" in own.messages("--unit", socket)

    remedy = warning.rpartition("then ")[2]
    assert remedy == f"systemctl restart {socket}"
    own.run(f"groupadd gone; usermod --append --groups gone {USER}; {remedy}")
    own.until(lambda: own.reads("JWT_SECRET", VALUES["JWT_SECRET"]))
    assert own.status()["warnings"] == []

    own.run(f"systemctl stop {ALL_SOCKETS} {AGENT}; systemctl mask --runtime {ALL_SOCKETS}")
    lines = _journal_lines(own)
    own.run(f"systemctl start {AGENT}", check=False)
    own.until(lambda: own.show(AGENT, "ActiveState") == "failed")
    time.sleep(2)
    assert own.show(AGENT, "ActiveState") == "failed"
    assert own.show(AGENT, "ExecMainStatus") == "78"
    assert _journal_lines(own) - lines < 30


@pytest.mark.parametrize("signal", ["KILL", "STOP"])
def test_a_reading_that_is_killed_or_hangs(own: Installed, signal: str) -> None:
    """Barbican is silent; the process is killed, or stands still: told within its time, and served on."""
    _short_timeout(own)
    own.until(lambda: own.status()["cycles"]["total"] >= 2 and not _reading(own))
    own.cloud.testbed.pause("barbican")
    asking = own.start("vps-secrets", "refresh")
    own.until(lambda: bool(_reading(own)))
    own.run(f"kill -{signal} {_reading(own)[0]}")
    out, _ = asking.communicate(timeout=60)
    assert asking.returncode == 1
    assert "fetch process" in out
    assert own.reads("JWT_SECRET", VALUES["JWT_SECRET"])
    own.cloud.testbed.resume("barbican")
    # also beside one that stands still; again where a busy machine takes longer than the three seconds
    own.until(lambda: own.run("vps-secrets refresh", check=False).code == 0)
    for left in _reading(own):
        own.run(f"kill -CONT {left}", check=False)
    own.until(lambda: not _reading(own))


def test_two_readings_at_once(own: Installed) -> None:
    """A new agent starts one while that of the killed one hangs: each answers whom it was started by."""
    own.cloud.testbed.pause("barbican")
    asking = own.start("vps-secrets", "refresh")
    own.until(lambda: len(_reading(own)) == 1)
    own.kill()
    asking.communicate(timeout=60)
    asking = own.start("vps-secrets", "refresh")
    own.until(lambda: len(_reading(own)) == 2)
    assert own.reads("JWT_SECRET", VALUES["JWT_SECRET"])
    own.cloud.testbed.resume("barbican")
    asking.communicate(timeout=60)
    assert asking.returncode == 0
    own.until(lambda: not _reading(own))
    assert own.status()["state"] == "ready"


def test_memory_that_cant_be_locked(own: Installed) -> None:
    """A limit that is too small for both kinds: served all the same, with a warning."""
    own.write(f"/etc/systemd/system/{AGENT}.d/lock.conf", "[Service]\nLimitMEMLOCK=0\n")
    own.run("systemctl daemon-reload")
    _restart(own)
    own.until(lambda: own.status()["state"] == "ready")
    assert own.reads("JWT_SECRET", VALUES["JWT_SECRET"])
    assert any("raise LimitMEMLOCK=" in warning for warning in own.status()["warnings"])


def test_the_status_line_stays_true(own: Installed) -> None:
    """Between two readings its age grows, and a failure shows at once."""
    own.write(f"/etc/systemd/system/{AGENT}.d/watchdog.conf", "[Service]\nWatchdogSec=2\n")
    own.run("systemctl daemon-reload")
    _restart(own)
    own.until(lambda: own.show(AGENT, "StatusText").startswith("ready, confirmed"))
    own.until(lambda: not own.show(AGENT, "StatusText").startswith("ready, confirmed 0 s ago"))
    line = own.show(AGENT, "StatusText")
    assert line.startswith("ready, confirmed")
    assert ", 2 secrets; next reading in" in line
    own.cloud.testbed.stop("barbican")
    own.run("vps-secrets refresh", check=False)
    own.until(lambda: "connection failed" in own.show(AGENT, "StatusText"))
    own.run(f"systemctl stop {AGENT} vps-secrets-app.socket vps-secrets-control.socket")
    assert own.show(AGENT, "StatusText") in {"", "stopped"}


READS = """
served=0
for i in $(seq 5000); do
    code=$(curl --silent --output /dev/null --write-out '%{http_code}' \\
        --unix-socket /run/vps-secrets/app.sock http://x/v1/secrets/JWT_SECRET)
    [ "$code" = 200 ] || break
    served=$((served + 1))
done
echo "$code $served"
"""
"""Reads until one is refused."""
JOURNALD = "systemd-journald.service"
SOCKETS = "systemd-journald.socket systemd-journald-dev-log.socket"


def _until_refused(machine: Installed) -> int:
    """Return how many reads were served until one was refused for want of a record."""
    code, served = machine.run(READS, user=USER, timeout=300).out.split()
    assert code == "503"
    body = machine.run(f"{APP} http://x/v1/bundle", user=USER).out
    assert "audit-unavailable" in body
    return int(served)


def _records(machine: Installed) -> int:
    return len(machine.journal("VPS_SECRETS_ACTION=/v1/secrets/JWT_SECRET", "VPS_SECRETS_OUTCOME=served"))


def test_a_journald_that_stands_still_and_one_that_is_stopped(own: Installed) -> None:
    """Reads are refused, the status says why, every 200 has its record; no restart; the log lives on."""
    own.write(f"/etc/systemd/system/{AGENT}.d/watchdog.conf", "[Service]\nWatchdogSec=4\n")
    own.run("systemctl daemon-reload")
    _restart(own)
    own.until(lambda: own.reads("JWT_SECRET", VALUES["JWT_SECRET"]))
    agent, before = own.pid(), _records(own)
    journald = own.pid(JOURNALD)
    own.run(f"kill -STOP {journald}")
    try:
        served = _until_refused(own)
        time.sleep(9)  # twice the watchdog's time
        assert own.pid() == agent
        assert "no audit records" in own.show(AGENT, "StatusText")
        assert any("no audit records" in warning for warning in own.status()["warnings"])
    finally:
        own.run(f"kill -CONT {journald}")
    own.until(lambda: own.reads("JWT_SECRET", VALUES["JWT_SECRET"]))
    own.until(lambda: _records(own) == before + served + 1)

    own.run(f"systemctl stop {SOCKETS} {JOURNALD}")
    assert _until_refused(own) == 0
    own.run(f"systemctl start {SOCKETS} {JOURNALD}")
    own.until(lambda: own.run(READS.replace("5000", "1"), user=USER).out.split()[0] == "200")
    own.run(f"systemctl reload {AGENT}")
    own.until_said("configuration loaded again", "--unit", AGENT)
    assert own.show(AGENT, "NRestarts") == "0"
    assert own.pid() == agent
    own.run(f"systemctl stop {AGENT}")
    assert own.show(AGENT, "ExecMainStatus") == "0"
    own.until_said("stopping", "--unit", AGENT)


def test_a_hangup_before_the_first_line(own: Installed) -> None:
    """To systemd SIGHUP is an orderly end; the agent is started again all the same, with all it held."""
    once = "/run/vps-secrets/rotated/once"
    program = f"sh -c 'test -e {once} && exec /usr/sbin/vps-secrets-agent; touch {once}; kill -HUP $$$$'"
    own.write(f"/etc/systemd/system/{AGENT}.d/once.conf", f"[Service]\nExecStart=\nExecStart={program}\n")
    own.cloud.testbed.stop("barbican")
    own.run(f"systemctl daemon-reload; systemctl --no-block restart {AGENT}")
    own.until(lambda: own.run(f"test -e {once}", check=False).code == 0)
    own.until(lambda: own.reads("JWT_SECRET", VALUES["JWT_SECRET"]))
    assert own.show(AGENT, "NRestarts") == "1"
