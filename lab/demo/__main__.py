"""``make demo``: provision, serve, rotate, refuse, survive an outage. ``--keep`` leaves it running."""

from __future__ import annotations

import argparse
import contextlib
import getpass
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Final

from deployer.cloud.secrets import DEMO_NAMES, Entry, generate_value
from lab.demo.application import Application
from lab.demo.screen import Screen, digest
from lab.testbed.cloud import Cloud
from lab.testbed.running import Agent

if TYPE_CHECKING:
    from deployer.cloud.secrets import Vps

FIRST: Final = "vps-prod-001"
SECOND: Final = "vps-prod-002"


class Demo:
    """The steps, in order. Everything it starts ends with ``stack``."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self._screen = Screen()
        self._cloud = Cloud()
        self._vps: dict[str, Vps] = {}
        self._values: dict[str, bytes] = {}
        self.agent: Agent

    def run(self) -> None:
        """Show the whole product."""
        self._provision()
        self._serve()
        self._rotate()
        self._refuse()
        self._survive()

    def _provision(self) -> None:
        screen = self._screen
        screen.title("A cloud: real Keystone and real Barbican on this machine")
        with screen.step("start Keystone and Barbican from PyPI, on sqlite and loopback"):
            self._stack.enter_context(self._cloud)
        for vps_id in (FIRST, SECOND):
            values = {name: generate_value(name) for name in DEMO_NAMES}
            with screen.step(f"provision {vps_id}: account, container, {len(values)} secrets"):
                self._vps[vps_id] = self._cloud.vps(vps_id, values)
            if vps_id == FIRST:
                self._values = values

    def _serve(self) -> None:
        screen = self._screen
        screen.title("The agent: from Barbican to the application's socket")
        grant = f'[[grant]]\nuser = "{getpass.getuser()}"\nsecrets = ["*"]\n'
        vps = self._vps[FIRST]
        self.agent = Agent(lambda directory: self._cloud.configuration(vps, directory, grant))
        self._stack.enter_context(self.agent)
        with screen.step(f"start the agent of {FIRST} and wait until it is ready"):
            self.agent.start().until_ready()
        cycles = self.agent.status()["cycles"]
        calls, timings = cycles["calls"], cycles["timings"]
        parts = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in timings.items())
        screen.say(f"{calls['keystone']} calls to Keystone, {calls['barbican']} to Barbican: {parts}")
        with screen.step("start the application (docs/examples/app.py): it reads all its secrets"):
            self.application = Application(self.agent.app)
            self._stack.callback(self.application.close)
            read = self.application.next_reading()
        for name in sorted(read):
            same = "as in Barbican" if read[name] == digest(self._values[name]) else "WRONG"
            screen.say(f"{name:<16} sha256 {read[name]}  {same}")
            _must(read[name] == digest(self._values[name]), f"{name} differs")

    def _rotate(self) -> None:
        screen = self._screen
        screen.title("A rotation reaches the running application")
        value = generate_value("JWT_SECRET")
        with screen.step("rotate JWT_SECRET in Barbican"):
            self._cloud.deployment.rotate(self._vps[FIRST], {"JWT_SECRET": value})
        with screen.step("refresh (else the next poll would notice); the application is told"):
            began = time.monotonic()
            answer = self.agent.ask_control("/v1/refresh", "POST")
            read = self.application.next_reading()
            seconds = time.monotonic() - began
        _must(answer.status == 200, "the refresh failed")  # noqa: PLR2004  # RFC 9110
        _must(read["JWT_SECRET"] == digest(value), "the application did not read the new version")
        screen.say(f"JWT_SECRET       sha256 {read['JWT_SECRET']}  read {seconds:.2f} s after the request")
        previous = self.agent.get("/v1/secrets/JWT_SECRET?version=previous").body
        screen.say(f"the version before it, for its grace time: sha256 {digest(previous)}")
        self._values["JWT_SECRET"] = value

    def _refuse(self) -> None:
        screen = self._screen
        screen.title(f"The secrets of {SECOND} are refused")
        other = next(
            e for e in self._cloud.deployment.entries(self._vps[SECOND]) if e.name.endswith("/JWT_SECRET")
        )
        session = self._cloud.accounts.log_in_with(self._cloud.runtime[FIRST].credential)
        with screen.step(f"by Barbican: {FIRST}'s account asks for {other.name}"):
            status = session.get(f"{other.secret_ref}/payload", raise_exc=False, log=False).status_code
        screen.say(f"HTTP {status}")
        _must(status == 403, "Barbican did not refuse")  # noqa: PLR2004  # RFC 9110
        answer = self.agent.get(f"/v1/secrets/{other.name}")
        screen.say(f"by the agent, asked for {other.name}: HTTP {answer.status}, {answer.problem}")
        _must(answer.status == 400, "the agent did not refuse")  # noqa: PLR2004  # RFC 9110
        with screen.step(f"by the agent, when it stands in {FIRST}'s container by mistake"):
            self._entry("POST", other)
            self._refresh()
        screen.say(f"not served, and told: {', '.join(self.agent.status()['foreign'])}")
        _must(self.agent.status()["foreign"] == [other.name], "the foreign entry was not told")
        self._entry("DELETE", other)

    def _survive(self) -> None:
        screen = self._screen
        screen.title("Barbican goes away: the application is served on")
        with screen.step("kill Barbican"):
            self._cloud.testbed.kill("barbican")
        with screen.step("ask the agent to refresh"):
            failure = self._refresh()
        screen.say(f"{failure['step']} failed: {failure['tried']}; {failure['advice']}")
        with screen.step("the application reads all its secrets again"):
            bundle = self.agent.get("/v1/bundle").json["secrets"]
        right = {n: digest(v.encode()) for n, v in bundle.items()} == {
            n: digest(v) for n, v in self._values.items()
        }
        _must(right, "the values differ")
        status = self.agent.status()
        screen.say(
            f"{len(bundle)} secrets as before, {status['confirmedAge']:.1f} s since Barbican confirmed them"
        )
        screen.say(f"next attempt in {status['nextAttemptIn']:.1f} s")
        with screen.step("start Barbican again and wait until the agent has noticed"):
            self._cloud.testbed.restart("barbican")
            self.agent.until(lambda: self.agent.status()["failure"] is None, 120)

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
        self._screen.title("Still running; try, and end with Ctrl-C:")
        for line in (
            f"curl --silent --unix-socket {app} http://localhost/v1/secrets",
            f"curl --silent --unix-socket {app} http://localhost/v1/secrets/JWT_SECRET | sha256sum",
            f"curl --silent --unix-socket {app} 'http://localhost/v1/watch?timeout=30'",
            f"curl --silent --unix-socket {control} http://localhost/v1/status",
            f"curl --silent --unix-socket {control} -X POST http://localhost/v1/refresh",
            f"curl --silent --unix-socket {control} http://localhost/metrics",
            f"build/venv/bin/vps-secrets status --control-socket {control}",
        ):
            print(f"  {line}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()


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
