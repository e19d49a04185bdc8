"""The demo's second part: the deployer, from the portal's wish to the loss of everything. Digests only."""

from __future__ import annotations

import getpass
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from common.names import Version
from deployer.cloud.barbican import Barbican
from lab.demo.application import Application
from lab.demo.database import VPS as FIRST
from lab.demo.database import Database, is_there
from lab.demo.machine import Machine
from lab.demo.relay import Relay
from lab.testbed.cloud import Cloud
from lab.testbed.site import Site

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Callable

    from lab.demo.screen import Screen

ROOT: Final = Path(__file__).parents[2]
PORTAL: Final = ROOT / "docs" / "examples" / "portal.mjs"
SECOND: Final = "vps-new-002"
BLUEPRINT: Final = """\
[JWT_SECRET]
kind = "random"
rotate = "40s"             # days, in real life
group = "session"
[SESSION_SECRET]
kind = "random"
rotate = "40s"
group = "session"
[SIGNING_KEY]
kind = "keypair"
algorithm = "ed25519"
rotate = "90d"
[ENCRYPTION_KEY]
kind = "random"
rotate = "never"
"""
WAIT_S: Final = 120.0


class Deployment:
    """The steps, in order. Everything it starts ends with ``stack``."""

    def __init__(self, stack: contextlib.ExitStack, screen: Screen) -> None:
        self._stack = stack
        self._screen = screen
        screen.title("The deployer: a portal presses Deploy, and no person sees a secret")
        with screen.step("a cloud of its own, whose data are lost at the end"):
            self._cloud = cloud = stack.enter_context(Cloud())
        folder = Path(tempfile.mkdtemp(prefix="demo-deployer-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        self._database = stack.enter_context(Database(folder)) if is_there() else None
        extra = self._database.configuration if self._database else ""
        worker = 'sweep = "200ms"\ncalls_per_second = 100\n'
        self.site = Site(cloud, folder, extra, worker=worker, registrar=False, sealing="required")
        self._barbican = Barbican(cloud.deployer_session, cloud.testbed.places.barbican_url)
        self._machines: dict[str, Machine] = {}
        self._last: dict[str, str] = {}

    def run(self) -> None:
        """Show the whole deployer."""
        self._provision()
        self._serve()
        self._on_schedule()
        self._database_password()
        self._deleted()
        self._revoke()
        self._lose_everything()

    def _provision(self) -> None:
        screen, site = self._screen, self.site
        for name in (FIRST, SECOND):
            text = BLUEPRINT + (self._database.secret if self._database and name == FIRST else "")
            (site.folder / "blueprints" / f"{_blueprint(name)}.toml").write_text(text)
        with screen.step("apply two blueprints; start API, worker and registrar"):
            self._command("blueprint", "apply", "--config", str(site.path))
            self._stack.enter_context(site)
            site.start("deployer.cli", site.folder / "api.sock", "serve")
        if self._database is None:
            screen.say("without a database: for that part, sudo apt-get install postgresql-15")
        for name in (FIRST, SECOND):
            with screen.step(f"the portal (Node.js) asks for {name}"):
                self._portal(name)
            with screen.step(f"{name} claims its identity and makes a key"):
                self._machines[name] = self._claim(name)
            screen.say("its one-time password is worthless; its values are sealed to that key")

    def _serve(self) -> None:
        screen = self._screen
        for name, machine in self._machines.items():
            with screen.step(f"the agent of {name}"):
                self._stack.enter_context(machine.start(getpass.getuser()))
        machine = self._machines[FIRST]
        with screen.step("its application reads"):
            self._application = Application(machine.agent.app)
            self._stack.callback(self._application.close)
            self._last = self._application.next_reading()
        self._show(*sorted(self._last))

    def _on_schedule(self) -> None:
        screen = self._screen
        screen.title("A rotation comes due: nobody does anything")
        with screen.step("wait: JWT_SECRET and SESSION_SECRET change together"):
            self._until_read(lambda old, new: old["JWT_SECRET"] != new["JWT_SECRET"])
        self._show("JWT_SECRET", "SESSION_SECRET")

    def _database_password(self) -> None:
        if self._database is None:
            return
        screen, database = self._screen, self._database
        screen.title("A database password rotates while a client works")
        with (
            database.client(self._machines[FIRST].agent) as client,
            screen.step("rotate DATABASE_URL: the idle role gets a new password"),
        ):
            self._command("rotate", FIRST, "DATABASE_URL", "--reason", "demo", "--no-wait")
            self._until_read(lambda old, new: old["DATABASE_URL"] != new["DATABASE_URL"])
            done = client.queries
            _until(lambda: client.queries > done + 20, "the client does not go on")
        self._show("DATABASE_URL")
        screen.say(
            f"{client.queries} transactions meanwhile as {' and '.join(client.roles)}, {client.failed} failed"
        )
        _must(not client.failed, "a query failed")

    def _deleted(self) -> None:
        screen = self._screen
        screen.title("Somebody deletes a secret in Barbican")
        before = self._last["SIGNING_KEY"]
        with screen.step("delete SIGNING_KEY; the application gets another one"):
            container = Version(self._machines[FIRST].container)
            entry = next(
                entry
                for entry in self._barbican.container(FIRST, container).entries
                if entry.name == "SIGNING_KEY"
            )
            self._barbican.delete_secret(entry.version)
            self._wake(FIRST)
            self._until_read(lambda _, new: new.get("SIGNING_KEY", before) != before)
        self._show("SIGNING_KEY")

    def _revoke(self) -> None:
        screen, machine = self._screen, self._machines[SECOND]
        screen.title("A VPS is revoked")
        with screen.step(f"revoke {SECOND}: no ACL names it, its user is off"):
            self._command("vps", "revoke", SECOND, "--reason", "demo")
        with screen.step("its agent drops everything after its grace of 5 s"):
            machine.agent.until(lambda: not machine.agent.status()["secrets"], WAIT_S)

    def _lose_everything(self) -> None:
        screen, machine = self._screen, self._machines[FIRST]
        screen.title("Barbican loses all of its data")
        with screen.step("stop it, delete its database, start it again"):
            self._cloud.testbed.wipe("barbican")
        with screen.step("the deployer makes the container; the key went with it"):
            self._wake(FIRST)
            former = machine.container
            _until(
                lambda: machine.new_container() != former, "no container was made", lambda: self._wake(FIRST)
            )
        with screen.step("the VPS is told which; its agent announces its key there"):
            machine.restart()
            _until(lambda: machine.serves("JWT_SECRET"), "nothing was made", lambda: self._wake(FIRST))
        with screen.step("a person asks for ENCRYPTION_KEY: old data is lost too"):
            self._command("rotate", FIRST, "ENCRYPTION_KEY", "--reason", "all data is lost", "--no-wait")
            _until(lambda: machine.serves("ENCRYPTION_KEY"), "it was not made")
        with screen.step("all is made anew, and sealed; the application reads"):
            before = dict(self._last)
            self._application.close()
            self._application = Application(machine.agent.app)
            self._stack.callback(self._application.close)
            self._last = self._application.next_reading(WAIT_S)
        _must(self._last.keys() == before.keys(), "a name is missing")
        self._show(*sorted(self._last))

    def keep(self) -> list[str]:
        """Return what to try while it is running."""
        relay = self._stack.enter_context(Relay(self.site.folder / "api.sock"))
        return [
            f"{relay.url}  # the dashboard, for a browser on this machine",
            f"export VPS_SECRETS_DEPLOY_SOCKET={self.site.folder}/api.sock",
            "build/venv/bin/python -m deployer.cli status",
            f"build/venv/bin/python -m deployer.cli vps show {FIRST}",
            f"build/venv/bin/python -m deployer.cli rotate {FIRST} --reason try",
        ]

    def _portal(self, name: str) -> None:
        """Run the portal."""
        node = shutil.which("node")
        _must(node is not None, "Node.js is missing: sudo apt-get install nodejs")
        ran = subprocess.run(
            [str(node), str(PORTAL), name, _blueprint(name), "env=demo"],
            env=os.environ | {"DEPLOYER_SOCKET": str(self.site.folder / "api.sock")},
            capture_output=True,
            text=True,
            check=False,
        )
        _must(not ran.returncode, f"the portal: {ran.stderr[-1000:]}\n{self.site.logs()[-3000:]}")

    def _claim(self, name: str) -> Machine:
        """Take over the identity of a VPS, as its new machine does."""
        user_data = self.site.folder / f"{name}.json"
        self._command("vps", "claim", name, "--json", "--output", str(user_data))
        machine = Machine(self.site, user_data.read_text())
        user_data.unlink()
        machine.join()
        return machine

    def _command(self, *arguments: str) -> None:
        environment = os.environ | {"VPS_SECRETS_DEPLOY_SOCKET": str(self.site.folder / "api.sock")}
        command = [sys.executable, "-m", "deployer.cli", *arguments]
        ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        _must(not ran.returncode, f"{' '.join(arguments)}: {ran.stderr}")

    def _wake(self, name: str) -> None:
        """Have the worker look at a VPS now, instead of within the hour."""
        self.site.wake(name)

    def _until_read(self, is_it: Callable[[dict[str, str], dict[str, str]], bool]) -> None:
        """Wait until the application has read something new."""
        end = time.monotonic() + WAIT_S
        before = dict(self._last)
        while not is_it(before, self._last):
            try:
                self._last = self._application.next_reading(max(0.1, end - time.monotonic()))
            except queue.Empty:
                _must(right=False, otherwise=f"the application read nothing new\n{self.site.logs()[-3000:]}")

    def _show(self, *names: str) -> None:
        for name in names:
            self._screen.say(f"{name:<16} sha256 {self._last[name]}")


def _blueprint(name: str) -> str:
    return "first" if name == FIRST else "second"


def _until(
    condition: Callable[[], bool], otherwise: str, meanwhile: Callable[[], None] = lambda: None
) -> None:
    end = time.monotonic() + WAIT_S
    pause = threading.Event()
    while not condition():
        _must(time.monotonic() < end, otherwise)
        meanwhile()
        pause.wait(0.3)


def _must(right: bool, otherwise: str) -> None:  # noqa: FBT001  # reads as a sentence
    if not right:
        raise SystemExit(f"demo: {otherwise}")
