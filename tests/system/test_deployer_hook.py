"""The kind ``command`` on booted Debians: a VPS is provisioned by an executable with a user of its own."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final

import pytest

from lab.testbed import tenant
from lab.testbed.fakes.serving import serving
from tests.system.test_deployer import (
    API,
    PLACE,
    STATE,
    VPS,
    WORKER,
    Portal,
    active,
    both_installed,
    join_as_the_vps,
    set_up_the_agent,
    set_up_the_deployer,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lab.testbed.cloud import Cloud
    from tests.system.installed import Installed

USER: Final = "vps-secrets-hook"
COMMAND: Final = "/usr/local/lib/recruitiq/webhook"
NAME: Final = "WEBHOOK_SECRET"
KEY: Final = "canary-8e1f07-provider"
BLUEPRINT: Final = f'[{NAME}]\nkind = "command"\ncommand = "{COMMAND}"\nrotate = "90d"\n'
FORBIDDEN: Final = (
    f"{STATE}/deployer.db",
    f"{PLACE}/credentials",
    f"{PLACE}/credentials/barbican-credential.cred",
    f"/run/credentials/{WORKER}/barbican-credential",
    f"/run/credentials/{WORKER}/webhook",
    "/run/vps-secrets-deployer/worker.sock",
    "/run/vps-secrets-deployer/hook.sock",
    "/run/vps-secrets-deployer/api.sock",
    "/run/vps-secrets/app.sock",
)
"""What no command may read, list or connect to."""
SCRIPT: Final = """#!/usr/bin/python3 -I
import hashlib, json, os, pwd, socket, sys, urllib.request

def works(attempt):
    try:
        attempt()
    except OSError:
        return False
    return True

def reach(path):
    return any((
        works(lambda: open(path, "rb").read()),
        works(lambda: os.listdir(path)),
        works(lambda: socket.socket(socket.AF_UNIX).connect(path)),
    ))

facts = json.load(sys.stdin)
key = os.fdopen(5).read()
value = os.fdopen(3, "rb").read() if facts["step"] in ("apply", "test") else b""
pids = [name for name in os.listdir("/proc") if name.isdecimal()]
others = [pid for pid in pids if os.stat("/proc/" + pid).st_uid != os.getuid()]
told = {
    "step": facts["step"],
    "user": pwd.getpwuid(os.getuid()).pw_name,
    "groups": os.getgroups(),
    "key": hashlib.sha256(key.encode()).hexdigest(),
    "value": hashlib.sha256(value).hexdigest() if value else "",
    "others": others + [str(WORKER_PID)] * works(lambda: open("/proc/WORKER_PID/mem", "rb").close()),
    "reached": [path for path in FORBIDDEN if reach(path)],
    "words": sys.argv[1:],
    "environment": sorted(os.environ),
}
urllib.request.urlopen("PROVIDER", json.dumps(told).encode(), timeout=10)
"""


class Provider(ThreadingHTTPServer):
    """The third party: keeps what commands tell of themselves, and of values their digests."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Door)
        self.told: list[dict[str, Any]] = []

    def last(self, step: str) -> dict[str, Any]:
        """Return what the last run of a step has told."""
        return next(one for one in reversed(self.told) if one["step"] == step)


class Door(BaseHTTPRequestHandler):
    """What the provider answers."""

    server: Provider

    def do_POST(self) -> None:
        """Take what is told."""
        self.server.told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Stay silent."""


@pytest.fixture
def provider() -> Iterator[Provider]:
    """A provider that runs."""
    with serving(Provider()) as made:
        yield made


def write_command(machine: Installed, script: str) -> None:
    """Replace the command, as an operator would: in one step."""
    machine.write(f"{COMMAND}.new", script, 0o755)
    machine.run(f"mv {COMMAND}.new {COMMAND}")


def command(machine: Installed, provider: Provider) -> str:
    """Return the command that works, and tells what it is."""
    names = f"FORBIDDEN = {FORBIDDEN!r}\n"
    script = SCRIPT.replace("WORKER_PID", str(machine.pid(WORKER)))
    script = script.replace("PROVIDER", f"http://127.0.0.1:{provider.server_port}/")
    return script.replace("\ndef works", f"\n{names}\ndef works", 1)


def allow(machine: Installed) -> None:
    """List the command in deployer.toml, give it its credential, and apply the blueprint."""
    machine.write("/run/key", KEY, 0o600)
    cred = f"{PLACE}/credentials/webhook.cred"
    machine.run(f"systemd-creds encrypt --with-key=host --name=webhook /run/key {cred}; rm /run/key")
    drop_in = f"/etc/systemd/system/{WORKER}.d/webhook.conf"
    machine.write(drop_in, f"[Service]\nLoadCredentialEncrypted=webhook:{cred}\n")
    listed = f'[[command]]\npath = "{COMMAND}"\ncredential = "webhook"\ntimeout = "3s"\n'
    machine.write(f"{PLACE}/deployer.toml", machine.run(f"cat {PLACE}/deployer.toml").out + listed)
    machine.write(f"{PLACE}/blueprints/backend.toml", BLUEPRINT)
    machine.run("vps-secrets-deploy blueprint apply --remove")
    machine.run(f"systemctl daemon-reload; systemctl restart {WORKER} {API}")
    machine.until(lambda: active(machine, WORKER, API))


@pytest.mark.timeout(600)
def test_a_command_has_a_user_of_its_own(
    rootfs: Path, deb: Path, deployer_deb: Path, own_cloud: Cloud, provider: Provider
) -> None:
    """From the portal to the application; then commands that hang, die and talk, and what is told of them."""
    site = tenant.make(own_cloud)
    with both_installed(rootfs, deb, deployer_deb) as machine:
        set_up_the_deployer(machine, own_cloud, site)
        allow(machine)
        write_command(machine, command(machine, provider))
        portal = Portal(machine)
        begun = portal.ask("PUT", f"/vps/{VPS}", json.dumps({"blueprint": "backend"}))["id"]
        portal.until(lambda: portal.done(begun))
        assert {one["step"] for one in provider.told} == {"plan", "apply", "test"}
        for one in provider.told:
            assert one["user"] == USER
            assert one["groups"] == [int(machine.run(f"id --group {USER}").out)]
            assert one["key"] == machine.run("sha256sum | cut -d ' ' -f 1", given=KEY).out.strip()
            assert (one["others"], one["reached"]) == ([], [])
            assert one["words"] == [one["step"]]
            assert set(one["environment"]) - {"LC_CTYPE"} == {"LANG", "PATH"}
        set_up_the_agent(machine, portal, join_as_the_vps(portal, site))
        portal.until(lambda: machine.digest(NAME) == provider.last("apply")["value"])
        assert provider.last("test")["value"] == machine.digest(NAME)
        misbehaves(machine, portal, provider)
        assert KEY not in machine.run("journalctl --output export | cat -v").out
        assert machine.run("systemctl --failed --no-legend").out == ""


def misbehaves(machine: Installed, portal: Portal, provider: Provider) -> None:
    """Each way to fail is told to the operator, and the next try works."""
    served = machine.digest(NAME)
    body = json.dumps({"reason": "test", "names": [NAME]})
    operation = ""
    for how, told in (
        ("setsid sleep 1000 & trap '' TERM; sleep 1000", "was not done after 3 s and was ended"),
        ("kill -KILL $PPID; sleep 1000", "its process ended without an answer"),
        ("yes provider | head -c 50000000; exit 1", "it said: provider"),
        ("cat <&5; exit 1", "asks to be tried again"),
        ("exit 77", "the status 77, which the contract does not have"),
    ):
        write_command(machine, f"#!/bin/bash\n{how}\n")
        if not operation:
            operation = portal.ask("POST", f"/vps/{VPS}/rotate", body)["id"]
        machine.run(f"vps-secrets-deploy look {VPS}", check=False)
        portal.until(lambda: told in machine.run(f"vps-secrets-deploy vps show {VPS}").out)  # noqa: B023
        portal.until(lambda: machine.run(f"pgrep --uid {USER}", check=False).code == 1)
    assert machine.digest(NAME) == served, "what works goes on while the command does not"
    write_command(machine, command(machine, provider))
    machine.run(f"vps-secrets-deploy look {VPS}")

    def arrived() -> bool:
        machine.run("vps-secrets refresh", check=False)
        return portal.done(operation)

    portal.until(arrived)
    assert provider.last("apply")["value"] == machine.digest(NAME) != served
