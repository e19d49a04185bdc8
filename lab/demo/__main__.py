"""``make demo``: provision, serve, rotate, refuse, survive an outage. ``--keep`` leaves it running."""

from __future__ import annotations

import argparse
import contextlib
import getpass
import os
import queue
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from deployer.cloud.secrets import DEMO_NAMES, Entry, generate_value
from lab.demo.application import Application
from lab.demo.deployment import Deployment
from lab.demo.screen import Screen, digest
from lab.testbed.cloud import Cloud
from lab.testbed.running import Agent

if TYPE_CHECKING:
    from deployer.cloud.secrets import Vps

FIRST: Final = "vps-prod-001"
SECOND: Final = "vps-prod-002"
WITHHELD: Final = "WEBHOOK_SECRET"
"""No grant covers it."""
ROTATE: Final = Path(__file__).parents[2] / "docs" / "examples" / "rotate.sh"
NOBODY: Final = 65534
ASK: Final = """import http.client, socket, sys
connection = http.client.HTTPConnection("localhost")
connection.sock = socket.socket(socket.AF_UNIX)
connection.sock.connect(sys.argv[1])
connection.request("GET", "/v1/secrets/JWT_SECRET")
print(connection.getresponse().status)"""
"""What another user runs."""


class Demo:
    """The steps, in order. Everything it starts ends with ``stack``."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self._screen = Screen()
        self._cloud = Cloud()
        self._vps: dict[str, Vps] = {}
        self.agent: Agent

    def run(self) -> None:
        """Show the whole product."""
        self._provision()
        self._serve()
        self._rotate()
        self._refuse()
        self._survive()
        self._deployment = Deployment(self._stack, self._screen)
        self._deployment.run()

    def _provision(self) -> None:
        screen = self._screen
        screen.title("A cloud: real Keystone and real Barbican on this machine")
        with screen.step("start Keystone and Barbican from PyPI, on sqlite and loopback"):
            self._stack.enter_context(self._cloud)
        for vps_id in (FIRST, SECOND):
            values = {name: generate_value(name) for name in DEMO_NAMES}
            with screen.step(f"provision {vps_id}: account, container, {len(values)} secrets"):
                self._vps[vps_id] = self._cloud.vps(vps_id, values)

    def _serve(self) -> None:
        screen = self._screen
        screen.title("The agent: from Barbican to the application's socket")
        granted = ", ".join(f'"{name}"' for name in DEMO_NAMES if name != WITHHELD)
        grant = f'[[grant]]\nuser = "{getpass.getuser()}"\nsecrets = [{granted}]\n'
        vps = self._vps[FIRST]
        self.agent = Agent(
            lambda directory: self._cloud.configuration(vps, directory, grant).replace(
                "[app]\n",
                '[app]\nmode = "0666"\n',  # whoever may connect, grants decide
            )
        )
        self._stack.enter_context(self.agent)
        with screen.step(f"start the agent of {FIRST} and wait until it is ready"):
            self.agent.start().until_ready()
        cycles = self.agent.status()["cycles"]
        calls, timings = cycles["calls"], cycles["timings"]
        parts = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in timings.items())
        screen.say(f"{calls['keystone']} calls to Keystone, {calls['barbican']} to Barbican: {parts}")
        with screen.step("start the application, docs/examples/app.py: it reads"):
            read = self._new_application()
        with screen.step("read the same from Barbican, past the agent"):
            inside = self._in_barbican()
        for name in sorted(read):
            same = "as in Barbican" if read[name] == inside[name] else "WRONG"
            screen.say(f"{name:<16} sha256 {read[name]}  {same}")
        _must(read == {n: d for n, d in inside.items() if n != WITHHELD}, "the values differ")

    def _new_application(self) -> dict[str, str]:
        """Start the application anew, as a process, and return the digests that it printed."""
        self.application = Application(self.agent.app)
        self._stack.callback(self.application.close)
        return self.application.next_reading()

    def _in_barbican(self) -> dict[str, str]:
        """Return the digests of what Barbican gives to the account of the VPS itself, without the agent."""
        session = self._cloud.accounts.log_in_with(self._cloud.runtime[FIRST].credential)
        accept = {"Accept": "application/octet-stream"}
        return {
            entry.name.partition("/")[2]: digest(
                session.get(f"{entry.secret_ref}/payload", headers=accept, log=False).content
            )
            for entry in self._cloud.deployment.entries(self._vps[FIRST])
        }

    def _rotate(self) -> None:
        screen = self._screen
        screen.title("A rotation reaches the running application")
        value = generate_value("JWT_SECRET")
        with screen.step("rotate JWT_SECRET in Barbican"):
            self._cloud.deployment.rotate(self._vps[FIRST], {"JWT_SECRET": value})
        with screen.step("refresh, or wait for the next poll: the application reads"):
            began = time.monotonic()
            answer = self.agent.ask_control("/v1/refresh", "POST")
            read = self.application.next_reading()
            seconds = time.monotonic() - began
        _must(answer.status == 200, "the refresh failed")  # noqa: PLR2004  # RFC 9110
        _must(read["JWT_SECRET"] == digest(value), "the application did not read the new version")
        screen.say(f"JWT_SECRET       sha256 {read['JWT_SECRET']}  read {seconds:.2f} s after the request")
        previous = self.agent.get("/v1/secrets/JWT_SECRET?version=previous").body
        screen.say(f"the version before it, for its grace time: sha256 {digest(previous)}")
        _must(self._in_barbican()["JWT_SECRET"] == digest(value), "Barbican has another version")

    def _refuse(self) -> None:
        screen = self._screen
        screen.title("Whoever has no right is refused")
        other = next(
            e for e in self._cloud.deployment.entries(self._vps[SECOND]) if e.name.endswith("/JWT_SECRET")
        )
        session = self._cloud.accounts.log_in_with(self._cloud.runtime[FIRST].credential)
        with screen.step(f"by Barbican: the account asks for {other.name}"):
            status = session.get(f"{other.secret_ref}/payload", raise_exc=False, log=False).status_code
        screen.say(f"HTTP {status}")
        _must(status == 403, "Barbican did not refuse")  # noqa: PLR2004  # RFC 9110
        answer = self.agent.get(f"/v1/secrets/{WITHHELD}")
        screen.say(f"by the agent, {WITHHELD}, which no grant covers: HTTP {answer.status}, {answer.problem}")
        _must(answer.status == 403, "the agent did not refuse")  # noqa: PLR2004  # RFC 9110
        if not os.getuid():
            status = self._as_nobody()
            screen.say(f"by the agent, JWT_SECRET, asked for by uid {NOBODY}: HTTP {status}")
            _must(status == 403, "the agent did not refuse another user")  # noqa: PLR2004  # RFC 9110
        with screen.step("by the agent: that secret listed in this VPS by mistake"):
            self._entry("POST", other)
            self._refresh()
        screen.say(f"not served, and reported: {', '.join(self.agent.status()['foreign'])}")
        _must(self.agent.status()["foreign"] == [other.name], "the foreign entry was not reported")
        self._entry("DELETE", other)

    def _survive(self) -> None:
        screen = self._screen
        screen.title("Barbican goes away: the application is served on")
        before = {n: d for n, d in self._in_barbican().items() if n != WITHHELD}
        with screen.step("kill Barbican"):
            self._cloud.testbed.kill("barbican")
        with screen.step("ask the agent to refresh"):
            failure = self._refresh()
        screen.say(f"{failure['step']} failed: {failure['tried']}; {failure['advice']}")
        with screen.step("kill the application, start another: it reads"):
            self.application.close()
            read = self._new_application()
        _must(read == before, "the values differ")
        status = self.agent.status()
        screen.say(f"{len(read)} secrets as in Barbican before, confirmed {status['confirmedAge']:.1f} s ago")
        screen.say(f"next attempt in {status['nextAttemptIn']:.1f} s")
        with screen.step("start Barbican again and wait until the agent has noticed"):
            self._cloud.testbed.restart("barbican")
            self.agent.until(lambda: self.agent.status()["failure"] is None, 120)

    def _as_nobody(self) -> int:
        """Ask the app socket from a process of another uid; return the status."""
        asked = subprocess.run(
            ["/usr/bin/python3", "-c", ASK, str(self.agent.app)],
            cwd="/",
            user=NOBODY,
            group=NOBODY,
            extra_groups=(),
            capture_output=True,
            check=True,
        )
        return int(asked.stdout)

    def _refresh(self) -> dict[str, str]:
        """Refresh; at most one a second is accepted."""
        while (answer := self.agent.ask_control("/v1/refresh", "POST")).status == 429:  # noqa: PLR2004  # RFC 6585
            time.sleep(0.2)
        failure: dict[str, str] = answer.json.get("failure") or {}
        return failure

    def _entry(self, method: str, entry: Entry) -> None:
        self._cloud.deployment._entry(method, self._vps[FIRST], entry, "change the container")  # noqa: SLF001  # a mistake that no proper operation makes

    def keep(self) -> None:
        """Print what to try, and wait for Ctrl-C."""
        app, control = self.agent.app, self.agent.control
        rotate = self._rotate_program()
        self._screen.title("Still running; try in another terminal, and end with Ctrl-C here:")
        for line in (
            f"app={app} control={control}",
            'ask() { curl -sS --fail-with-body --unix-socket "$@"; }',
            "ask $app http://x/v1/secrets | python3 -m json.tool",
            "ask $app http://x/v1/secrets/JWT_SECRET | sha256sum",
            "ask $app 'http://x/v1/watch?timeout=30' &  # says what the next line changes",
            f"openssl rand -base64 48 | {rotate} JWT_SECRET",
            "ask $control -X POST http://x/v1/refresh | python3 -m json.tool",
            "ask $control http://x/metrics",
            "build/venv/bin/vps-secrets status --control-socket $control",
            *self._deployment.keep(),
        ):
            print(f"  {line}", flush=True)
        self._screen.title("What the application reads from now on:")
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                with contextlib.suppress(queue.Empty):
                    for name, shown in self.application.next_reading().items():
                        self._screen.say(f"{name:<16} sha256 {shown}")

    def _rotate_program(self) -> str:
        """Write a program that calls rotate.sh as the deployment, for this user only; return its path."""
        vps, credential = self._vps[FIRST], self._cloud.deployer
        path = self.agent.directory / "rotate"
        told = {
            "VPS_ID": vps.vps_id,
            "CONTAINER": vps.container_ref,
            "USER_ID": vps.user_id,
            "OS_AUTH_URL": self._cloud.auth_url,
            "OS_APPLICATION_CREDENTIAL_ID": credential.id,
            "OS_APPLICATION_CREDENTIAL_SECRET": credential.secret,
        }
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o700)
        with os.fdopen(descriptor, "w") as file:
            file.write("#!/bin/bash\n")
            file.writelines(f"export {name}={shlex.quote(value)}\n" for name, value in told.items())
            file.write(f'exec {shlex.quote(str(ROTATE))} "$@"\n')
        return str(path)


def _must(right: bool, otherwise: str) -> None:  # noqa: FBT001  # reads as a sentence
    if not right:
        raise SystemExit(f"demo: {otherwise}")


def main() -> int:
    """Run the demo; return the exit status."""
    parser = argparse.ArgumentParser(prog="demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave it running and print what to try")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # a shell starts what runs in the background with SIGINT ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup(1)
        signal.signal(signal.SIGHUP, lambda *_: sys.exit(129))  # the terminal was closed
    try:
        with contextlib.ExitStack() as stack:
            demo = Demo(stack)
            demo.run()
            if options.keep:
                demo.keep()
    except KeyboardInterrupt:
        print("\nInterrupted; everything is ended and removed.", flush=True)
        return 130
    print("\nEverything is ended and removed.", flush=True)
    return os.EX_OK


if __name__ == "__main__":
    sys.exit(main())
