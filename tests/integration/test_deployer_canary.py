"""No secret leaves the deployer, and no request of it could return one: the whole story, with failures.

All processes are real and log as loudly as they can. What they send to Keystone and Barbican goes through
proxies that note it, so each value and password that ever existed is known here, also of attempts that
failed; a VPS reads its own by its agent. A word that is no secret is planted on every surface, and must be
found there. A failing test names what leaked and where, never the value.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from sqlalchemy import func, select

from common import sealing_key
from deployer.api import contract
from deployer.backup import archives
from deployer.core import backup_format
from deployer.database import history, schema, vpses
from lab.demo.database import Database
from lab.testbed.cloud import Cloud
from lab.testbed.running import ask
from lab.testbed.site import Site
from tests.integration import drilling
from tests.integration.canary_lists import COMMANDS, HERE, ROUTES, TABLES, TEMPLATES, leaks
from tests.integration.drilling import Command, Machine, Serve, until
from tests.integration.recording import Recorder, Request, could_return_a_payload, examined

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ROOT: Final = Path(__file__).parents[2]
PLAIN: Final = """
[JWT_SECRET]
kind = "random"
rotate = "30d"
group = "session"
[SESSION_SECRET]
kind = "password"
rotate = "30d"
group = "session"
[SIGNING_KEY]
kind = "keypair"
rotate = "90d"
[ENCRYPTION_KEY]
kind = "random"
rotate = "never"
[SMTP_PASSWORD]
kind = "external"
rotate = "180d"
"""
TIMED: Final = """
[TIMED_SECRET]
kind = "random"
rotate = "1m"
"""
# it says its value wherever it can, then fails, for as long as the file "bad" is there
BAD_COMMAND: Final = """#!/bin/bash
cat /proc/$$/environ /proc/$$/cmdline >>{folder}/hook-saw
[ -e {folder}/bad ] || exit 0
[ "$1" = apply ] || exit 0
value=$(cat <&3 | base64 -w0)
echo "$value"; echo "$value" >&2
echo "$value" | base64 -d >&2
exit 1
"""
# every Python process of the deployer, also those that live for one request, tells how it was started, and
# whereto it connects (PEP 578; what libpq does in C is not seen)
WITNESS: Final = """
import os, sys
_file = os.open(os.environ["WITNESS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
with open("/proc/self/cmdline", "rb") as a, open("/proc/self/environ", "rb") as b:
    os.write(_file, b"started " + a.read().replace(b"\\n", b" ") + b.read().replace(b"\\n", b" ") + b"\\n")
def _hook(event, arguments):
    if event == "socket.connect":
        os.write(_file, f"connect {arguments[1]!r}\\n".encode())
    elif event == "subprocess.Popen":
        os.write(_file, f"run {arguments[1]!r} {arguments[3]!r}\\n".encode())
if any(word.startswith("deployer.") for word in sys.orig_argv):
    sys.addaudithook(_hook)
"""
LAST_EVENTS_S: Final = 3.0
SURFACES: Final = {
    *("the logs", "files of the deployer", "PostgreSQL's log", "PostgreSQL's files", "environments"),
    *("command lines", "how processes were started", "what commands print", "the API", "the pages"),
    *("metrics", "events", "a backup in the clear", "the database"),
}
"""Where what is planted must be found."""


class Story(Command):
    """A site whose every word is kept: ``told`` by surface. ``control`` is what is planted everywhere."""

    def __init__(self, site: Site, record: Recorder, database: Database, control: str, outside: Path) -> None:
        super().__init__(site)
        self.site, self.record, self.database, self.control = site, record, database, control
        self.first, self.second = f"vps-{control}", f"vps-{control}-b"
        self.outside = outside
        self.told: dict[str, bytearray] = {}
        self.hidden: dict[str, bytes] = {}
        self.users: dict[str, str] = {}
        self.ordered: Counter[str] = Counter()
        self.commands: set[str] = set()
        self.routes: set[str] = set()
        self.recorded: set[str] = set()
        self.began, self.began_at = time.monotonic(), time.time()

    def __call__(self, *arguments: str, given: str = "", status: int = 0) -> str:
        """Run a command; keep what it prints."""
        self.commands |= {name for name in COMMANDS if list(arguments[: len(name.split())]) == name.split()}
        said = super().__call__(*arguments, given=given, status=status)
        self.tell("what commands print", said.encode())
        return said

    def status(self) -> int:
        """Run ``status``, which fails while anything of the fleet does; return how it ended."""
        try:
            self("status")
        except AssertionError as failed:
            self.tell("what commands print", str(failed).encode())
            return 1
        return 0

    def order(self, kind: str, *arguments: str, given: str = "") -> str:
        """Run a command that the API makes an operation of."""
        said = self(*arguments, given=given)
        self.ordered[kind] += 1
        return said

    def step(self, words: str) -> None:
        """Say how far it is (pytest -s)."""
        drilling.say(f"{time.monotonic() - self.began:.0f} s: {words}")

    def tell(self, surface: str, content: bytes) -> None:
        """Keep what somebody could see."""
        self.told.setdefault(surface, bytearray()).extend(b"\n" + content)

    def ask(self, target: str, headers: dict[str, str] | None = None) -> bytes:
        """Ask the API or a page."""
        with contextlib.suppress(Exception):  # a page is no route of the contract
            self.routes.add(contract.Routes().find("GET", target.partition("?")[0])[0].id)
        answer = ask(self.site.folder / "api.sock", "GET", target, headers)
        assert answer.status < 500, target
        return answer.body

    def shown(self) -> dict[str, Any]:
        """Return what the API shows of the first VPS."""
        found: dict[str, Any] = json.loads(self.ask(f"/v1/vps/{self.first}"))
        return found

    def versions(self) -> dict[str, str]:
        """Return the current versions."""
        return {one["name"]: one["version"] for one in self.shown()["secrets"]}

    def rotated(self, name: str, broken: str, heal: Callable[[], None]) -> None:
        """Rotate while something is broken: it is told, then healed, then the rotation ends."""
        before = self.versions()[name]
        self.rotate(name, broken)
        until(lambda: bool(self.shown()["vps"]["lastError"]))
        self.tell("last errors", self.shown()["vps"]["lastError"].encode())
        heal()
        # by hand, since backoff after failures is minutes
        until(lambda: self._retried(name, broken) != before)
        until(lambda: not self.shown()["vps"]["lastError"])
        self.step(broken)

    def rotate(self, name: str, why: str) -> None:
        """Order a rotation, and do not wait for it."""
        self.order("rotate", "rotate", self.first, name, "--reason", why, "--no-wait")

    def _retried(self, name: str, why: str) -> str:
        self.site.wake(self.first)
        time.sleep(0.5)
        if not self.shown()["rotations"]:
            self.rotate(name, why)
        return self.versions()[name]

    def changed(self, names: Sequence[str], act: Callable[[], object]) -> None:
        """Do something that gives these names other versions, and wait for that."""
        before = self.versions()
        act()
        until(lambda: all(self.versions()[name] not in {before[name], None} for name in names))

    def look_everywhere(self, pid: int) -> None:
        """Keep what files, processes, API, pages, figures, events and backups show now."""
        folder = self.site.folder
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                surface = "the logs" if path.suffix == ".log" else "files of the deployer"
                self.tell(
                    "the database" if path.name.startswith("deployer.db") else surface, path.read_bytes()
                )
        for path in sorted(self.database.server.directory.rglob("*")):
            with contextlib.suppress(FileNotFoundError):
                if path.is_file() and path.stat().st_mtime > self.began_at:
                    surface = "PostgreSQL's log" if path.name == "log" else "PostgreSQL's files"
                    self.tell(surface, path.read_bytes().replace(bytes(64), b""))  # most of it is nothing
        for process in tree(pid):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                self.tell("environments", Path(f"/proc/{process}/environ").read_bytes())
                self.tell("command lines", Path(f"/proc/{process}/cmdline").read_bytes())
                limits = Path(f"/proc/{process}/limits").read_text()
                assert re.search(r"Max core file size +0 +0 ", limits), process
        for target in self._targets():
            is_api = target.startswith(("/v1", "/metrics"))
            body = self.ask(target, None if is_api else {"Accept": "text/html"})
            self.tell("metrics" if target == "/metrics" else "the API" if is_api else "the pages", body)
        self.tell("events", self._events())
        with self.site.database.read() as c:
            backup = archives.gather(
                c, time.time(), "test", self.site.cloud.testbed.places.barbican_url, None
            )
        self.tell("a backup in the clear", backup_format.encode(backup))

    def _targets(self) -> list[str]:
        """Return every GET of the contract with every id that is known, and every page that pages name."""
        with self.site.database.read() as c:
            operations = [str(row[0]) for row in c.execute(select(schema.operation.c.id))]
        known = {"id": [self.first, self.second], "operation": operations}
        found = {"/"} | {path.format(vps=self.first, operation=operations[0]) for path in TEMPLATES.values()}
        for path, item in contract.DOCUMENT["paths"].items():
            if "get" not in item or path.endswith("/events"):
                continue
            names = re.findall(r"{(\w+)}", path)
            found |= {
                path.replace(f"{{{names[0]}}}", value) if names else path
                for value in (known[names[0]] if names else [""])
            }
        seen: set[str] = set()
        while todo := {path for path in found - seen if not path.startswith(("/v1", "/metrics"))}:
            for page in todo:
                body = self.ask(page, {"Accept": "text/html"}).decode("utf-8", "replace")
                found |= set(re.findall(r'(?:href|src)="(/[^"#]*)"', body))
            seen |= todo
        return sorted(path.replace("&amp;", "&") for path in found)

    def _events(self) -> bytes:
        """Return the stream of events from its beginning until it is quiet."""
        self.routes.add("streamEvents")
        heard = b""
        with socket.socket(socket.AF_UNIX) as listener:
            listener.settimeout(LAST_EVENTS_S)
            listener.connect(str(self.site.folder / "api.sock"))
            listener.sendall(b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: 0\r\n\r\n")
            with contextlib.suppress(TimeoutError):
                while data := listener.recv(65536):
                    heard += data
        return heard

    def hide_all(self) -> None:
        """Add what the proxies have seen to what must be nowhere."""
        for index, value in enumerate(dict.fromkeys(self.record.values)):
            self.hidden[f"value {index}"] = value
            for part in re.findall(rb"://\w+:([\w-]+)@", value):
                self.hidden[f"password in value {index}"] = part
            if b"PRIVATE KEY" in value:
                self.hidden[f"a line of key {index}"] = max(value.splitlines(), key=len)[:40]
        for index, password in enumerate(sorted(self.record.passwords)):
            self.hidden[f"password {index} in a request to Keystone"] = password.encode()


def tree(pid: int) -> list[int]:
    """Return a process with all below it."""
    try:
        below = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return [pid]
    return [pid, *(one for child in below for one in tree(int(child)))]


@pytest.fixture
def own_cloud() -> Iterator[Cloud]:
    """A cloud that may be broken."""
    with Cloud() as made:
        yield made


@pytest.fixture
def story(own_cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> Iterator[Story]:
    """A site with everything that a blueprint can ask for, at its loudest."""
    control = f"c{secrets.token_hex(5)}"
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"{control}-")))
        outside = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="canary-keys-")))
        witness = folder / "witness" / "sitecustomize.py"
        witness.parent.mkdir()
        witness.write_text(WITNESS)
        monkeypatch.setenv("PYTHONPATH", str(witness.parent))
        monkeypatch.setenv("WITNESS", str(folder / "processes"))
        hook = folder / "bad-command"
        hook.write_text(BAD_COMMAND.format(folder=shlex.quote(str(folder))))
        hook.chmod(0o755)
        record = stack.enter_context(Recorder(own_cloud))
        database = stack.enter_context(Database(outside, f"vps-{control}"))
        # from now on its log has every statement; the planted word is one
        database.sql("ALTER SYSTEM SET log_statement = 'all'; SELECT pg_reload_conf();")
        until(lambda: control.encode() in _logged(database, control))
        recipient = (
            subprocess.run(
                ["age-keygen", "-o", str(outside / "offline-key")], capture_output=True, text=True, check=True
            )
            .stderr.rpartition(" ")[2]
            .strip()
        )
        (folder / "backups").mkdir()
        extra = (
            f'[log]\nlevel = "debug"\n[[command]]\npath = "{hook}"\n'
            f'[[backup]]\nname = "near"\ndirectory = "{folder}/backups"\nrecipients = ["{recipient}"]\n'
            f'[signing]\nkey_file = "{outside}/signing-key"\n'
        )
        site = stack.enter_context(
            Site(
                own_cloud,
                folder,
                extra + database.configuration,
                barbican_url=record.barbican.url,
                auth_url=record.keystone.url,
                worker='sweep = "200ms"\n',
                registrar=False,
                sealing="required",
            )
        )
        _move_credentials(site, outside)
        command = f'[WEBHOOK_SECRET]\nkind = "command"\ncommand = "{hook}"\nrotate = "90d"\n'
        (folder / "blueprints" / "backend.toml").write_text(PLAIN + TIMED + database.secret + command)
        (folder / "blueprints" / "plain.toml").write_text(PLAIN)
        yield Story(site, record, database, control, outside)


def _logged(database: Database, control: str) -> bytes:
    database.sql(f"SELECT '{control}'")
    return database.server.log.read_bytes()


def _move_credentials(site: Site, outside: Path) -> None:
    """Put the files that hold credentials elsewhere: everything that lies in the folder is looked at."""
    text = site.path.read_text()
    for name in ("worker-credential", "registrar-password", "registrar-key"):
        (site.folder / name).rename(outside / name)
        text = text.replace(f"{site.folder}/{name}", f"{outside}/{name}")
    site.path.write_text(text)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_canary(story: Story) -> None:
    """Every value, at every turn of a VPS's life: it is nowhere but in Barbican, and with its reader.

    The first VPS is sealed: neither its values nor what they are sealed as are anywhere else.
    """
    site, folder, first, second = story.site, story.site.folder, story.first, story.second
    for verb in ("check", "plan", "apply"):
        story.local("blueprint", verb)
    story.commands.add("serve")
    serve = Serve(site)
    with contextlib.ExitStack() as stack:
        machine = _provision(story, stack)
        _fail(story)
        _rotate_and_roll_back(story, machine)
        backup = _back_up(story)
        story.look_everywhere(serve._process.pid)
        story.step("all was looked at")
        _assert_who_asked(story)
        _restore(story, serve, backup)
        _emergency(story)
        story.order("revoke", "vps", "revoke", second, "--reason", "a drill")
        story.order("restore-access", "vps", "restore-access", second, "--reason", "a drill")
        story.step("access was taken and given back")
        story.look_everywhere(serve._process.pid)
        _assert_everything_was_met(story)
        story.order("retire", "vps", "retire", second, "--reason", "a drill", "--confirm", second)
        story.order("retire", "vps", "retire", first, "--reason", "a drill", "--confirm", first)
        _assert_who_asked(story)
        _crash(story, serve)
    story.step("it is looked for")
    assert story.record.killed == 1
    story.tell("how processes were started", (folder / "processes").read_bytes())
    story.hide_all()
    # counted first: a failing assertion would show what it looked into
    values, passwords = len(story.record.values), len(story.record.passwords)
    tokens = sum(token.startswith("gAAAAA") for token in story.record.tokens)
    assert (values > 15, passwords >= 5, tokens > 0) == (True, True, True)
    assert story.told.keys() >= SURFACES
    controls = leaks(
        {"control": story.control.encode(), "of metrics": b"vps_secrets_deployer_vps"}, story.told
    )
    assert {surface for _, surface in controls} >= SURFACES
    assert len(story.told["last errors"].split(b"\n")) > 3
    leaked = leaks(story.hidden, story.told)
    assert leaked == set()
    for words in (b"gAAAAA", b"AGE-SECRET-KEY", b"Traceback"):  # tokens are Fernet's, and begin so
        assert [surface for surface, content in story.told.items() if words in content] == []
    found = examined(story.record.requests, story.users, story.record.names)
    assert found.named > 12
    assert found.removed >= 3
    _assert_connections(story)


def _provision(story: Story, stack: contextlib.ExitStack) -> Machine:
    outside = story.outside
    story.hidden |= {
        "the worker's credential": (outside / "worker-credential").read_bytes(),
        "the registrar's password": (outside / "registrar-password").read_bytes(),
        "the registrar's key": (outside / "registrar-key").read_bytes(),
        "the rotator's password": (outside / "rotator-password").read_bytes(),
        "the offline key": (outside / "offline-key").read_bytes().splitlines()[-1],
    }
    for vps_id, blueprint in ((story.first, "backend"), (story.second, "plain")):
        label = f"planted={story.control}"
        sealing = "required" if vps_id == story.first else "off"
        wish = ("vps", "add", vps_id, "--blueprint", blueprint, "--label", label, "--sealing", sealing)
        story.order("provision", *wish)
        with story.site.database.read() as c:
            row = vpses.get(c, vps_id)
        assert row is not None
        story.users[vps_id] = row.user_id
    machine = Machine(story.site, story, story.first)
    story.ordered["claim"] += 1
    story.record.keys.append(machine.private)
    story.hidden["the key of the first VPS"] = sealing_key.encoded(machine.private).encode()
    for vps_id in (story.first, story.second):
        given = f"given-{secrets.token_urlsafe(18)}"
        story.hidden[f"the value given to {vps_id}"] = given.encode()
        story.order("give-value", "set", vps_id, "SMTP_PASSWORD", given=given)
    env = story.outside / "env"
    imported = f"imported-{secrets.token_urlsafe(18)}"
    story.hidden["an imported value"] = imported.encode()
    env.write_text(f"# planted\nSMTP_PASSWORD='{imported}'\n")
    story.order("give-value", "import", "--vps", story.second, "--env-file", str(env))
    machine.agent.start().until_ready()
    stack.enter_context(machine.agent)
    values = [machine.agent.get(f"/v1/secrets/{name}").body for name in machine.served()]
    passed = sum(value in story.record.values for value in values)
    assert passed == len(machine.served()) == 8, "a value did not pass the proxy"
    story.database.sql(f"CREATE TABLE planted AS SELECT '{story.control}' AS it; CHECKPOINT")
    story.step("two VPSs have their secrets")
    return machine


def _fail(story: Story) -> None:
    """Let a command misbehave, PostgreSQL be away, Barbican be killed in the middle of a payload."""
    bad = story.site.folder / "bad"
    bad.touch()
    story.rotated("WEBHOOK_SECRET", "a bad command", bad.unlink)
    server = story.database.server
    server.stop()
    story.rotated("DATABASE_URL", "PostgreSQL is away", server.start)
    story.record.kill_in_payload = True

    def heal() -> None:
        until(lambda: story.record.killed == 1)
        story.site.cloud.testbed.restart("barbican")

    story.rotated("JWT_SECRET", "Barbican is killed", heal)


def _rotate_and_roll_back(story: Story, machine: Machine) -> None:
    """By schedule, of a pair of roles, of many; back to a former version; a value of a person."""
    first = story.first
    until(lambda: any(row["reason"] == "schedule" for row in _rotations(story)))
    story.changed(["DATABASE_URL"], lambda: story.rotate("DATABASE_URL", "a drill"))
    story.changed(["SIGNING_KEY"], lambda: story.rotate("SIGNING_KEY", "a drill"))
    machine.agent.until(lambda: machine.served().get("SIGNING_KEY") == story.versions()["SIGNING_KEY"], 200)
    until(lambda: not any(row["group"] == "SIGNING_KEY" for row in story.shown()["rotations"]))
    back = ("rollback", first, "SIGNING_KEY", "--reason", "a drill", "--no-wait")
    story.changed(["SIGNING_KEY"], lambda: story.order("rollback", *back))
    many = ("rotate-many", "JWT_SECRET", "--all", "--reason", "a drill", "--no-wait")
    story.changed(["JWT_SECRET"], lambda: story.order("rotate-many", *many))
    given = f"given-{secrets.token_urlsafe(18)}"
    story.hidden["another value given"] = given.encode()
    story.changed(
        ["SMTP_PASSWORD"], lambda: story.order("give-value", "set", first, "SMTP_PASSWORD", given=given)
    )
    story.status()
    story("vps", "list")
    story("vps", "show", first)
    story("operation", json.loads(story.ask("/v1/operations"))["items"][-1]["id"])
    story.step("rotated by schedule and by hand, rolled back")


def _rotations(story: Story) -> list[dict[str, Any]]:
    with story.site.database.read() as c:
        return [dict(row._mapping) for row in c.execute(select(schema.rotation))]


def _back_up(story: Story) -> tuple[str, str]:
    """Write and prove a backup; return its file and who signed it."""
    key = story.outside / "signing-key"
    said = story.local("backup", "run")
    story.local("backup", "prove")
    story.hidden["the backup's signing key"] = key.read_bytes().strip()
    (path,) = (story.site.folder / "backups").iterdir()
    return str(path), said.partition("signed by ")[2].partition(":")[0]


def _restore(story: Story, serve: Serve, backup: tuple[str, str]) -> None:
    """Lose the database, and have it back; lose a secret, and have another one."""
    serve.stop()
    _collect_records(story)
    for path in story.site.folder.glob("deployer.db*"):
        story.tell("the database", path.read_bytes())
    shutil.copy(story.site.folder / "deployer.cli.log", story.site.folder / "before.log")
    story.site.database.close()  # or what was lost would go on to be read here
    for path in story.site.folder.glob("deployer.db*"):
        path.unlink()
    written, signer = backup
    identity = str(story.outside / "offline-key")
    story.ordered.clear()
    story.local("restore", written, "--identity", identity, f"--signed-by={signer}")
    serve.start()
    story.local("look", story.second)
    story.step("a lost database is back")
    story.tell("files of the deployer", b"restored")

    def lose() -> None:
        drilling.delete(story.site, story.versions()["SIGNING_KEY"])
        story.site.wake(story.first)

    until(lambda: story.versions().get("SIGNING_KEY") is not None)
    story.changed(["SIGNING_KEY"], lose)
    story.step("a lost secret is back")


def _emergency(story: Story) -> None:
    made = ["JWT_SECRET", "SESSION_SECRET", "SIGNING_KEY", "DATABASE_URL", "WEBHOOK_SECRET"]
    for word in ("emergency", "compromised"):
        order = (word, story.first, "--reason", "a drill", "--no-wait")
        story.changed(made, lambda order=order: story.order("emergency", *order))  # type: ignore[misc]
        until(lambda: not any(row["listedAt"] is None for row in story.shown()["rotations"]))
    story.step("all values are other ones")


def _crash(story: Story, serve: Serve) -> None:
    """End the worker by a signal that leaves a core elsewhere: it leaves none."""
    workers = [
        pid
        for pid in tree(serve._process.pid)
        if b"deployer.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    before = set(ROOT.glob("core*"))
    for pid in workers:
        os.kill(pid, signal.SIGABRT)
    serve._process.wait(drilling.WAIT_S)
    assert len(workers) == 1
    assert set(ROOT.glob("core*")) == before
    assert _core_of_a_process_without_our_limit(story.control.encode()), "cores are not looked for rightly"


def _core_of_a_process_without_our_limit(control: bytes) -> bool:
    """Tell whether a core that lies in a working directory has what was in memory; the control of cores."""
    pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip()
    if pattern.startswith(("|", "/")):  # this machine's go elsewhere: the limits, 0, were looked at
        return True
    with tempfile.TemporaryDirectory() as folder:
        text = (
            "import os, resource, sys; hard = resource.getrlimit(resource.RLIMIT_CORE)[1]\n"
            "resource.setrlimit(resource.RLIMIT_CORE, (hard, hard)); kept = bytes.fromhex(sys.stdin.read())\n"
            "os.abort()"
        )
        ran = [sys.executable, "-E", "-c", text]
        subprocess.run(ran, input=control.hex(), text=True, cwd=folder, check=False)
        return any(control in path.read_bytes() for path in Path(folder).glob("core*"))


def _collect_records(story: Story) -> None:
    """Remember which versions the history says were made."""
    with story.site.database.read() as c:
        made = [row for row in history.page(c, limit=100_000) if row.action == "secret.made"]
    story.recorded |= {str(row.detail["version"]) for row in made}


def _assert_who_asked(story: Story) -> None:
    """Each order has an operation and its record, each version its record, by whom; none has no name."""
    with story.site.database.read() as c:
        operations = c.execute(select(schema.operation)).all()
        said = c.execute(select(schema.history)).all()
        rotations = c.execute(select(schema.rotation)).all()
    me = {row.asked_by for row in operations}
    assert len(me) == 1
    assert Counter(row.kind for row in operations) == story.ordered
    assert Counter(
        row.action.removeprefix("operation.")
        for row in said
        if row.action.startswith("operation.") and {row.actor} == me
    ) == Counter(row.kind for row in operations)
    wanted = Counter(row.actor for row in said if row.action == "rotation.want")
    assert Counter(row.asked_by for row in rotations) <= wanted
    assert all(row.actor for row in said)
    assert all(row.asked_by for row in rotations)

    def versions_without_a_record() -> set[str]:
        _collect_records(story)
        return story.record.ready() - story.recorded

    until(lambda: not versions_without_a_record())
    assert story.recorded <= story.record.ready()


def _assert_everything_was_met(story: Story) -> None:
    """What the lists say is covered here was met here."""
    changes = {operation.id for operation in contract.Routes().operations if operation.changes}
    assert {name for name, where in ROUTES.items() if where == HERE} - story.routes == changes
    assert {name for name, where in COMMANDS.items() if where == HERE} - story.commands == {"vps retire"}
    with story.site.database.read() as c:
        empty = {
            table.name
            for table in schema.metadata.sorted_tables
            if not c.execute(select(func.count()).select_from(table)).scalar()
        }
    assert empty & TABLES <= {"backup", "check_result"}  # what was restored may have no record of these yet


def _assert_connections(story: Story) -> None:
    """To the two proxies, and to sockets of this machine, and to nobody else."""
    processes = (story.site.folder / "processes").read_text(errors="replace")
    reached = set(re.findall(r"^connect (.+)$", processes, re.MULTILINE))
    ports = {str(story.record.barbican.port), str(story.record.keystone.port)}
    hosts = {one for one in reached if one.startswith("(")}
    assert {re.sub(r"^\('[^']+', (\d+).*", r"\1", one) for one in hosts} == ports
    assert {one.split("'")[1] for one in hosts} <= {"127.0.0.1", "::1", "localhost"}
    paths = {one.strip("'") for one in reached - hosts}
    assert all(Path(one).is_relative_to(story.site.folder) for one in paths)
    assert len(paths) >= 3
    assert {one.service for one in story.record.requests} == {"keystone", "barbican"}


@pytest.mark.parametrize(
    ("method", "path", "could"),
    [
        ("GET", "/v1/secrets/00000000-0000-0000-0000-000000000000", True),
        ("GET", "/v1/secrets/00000000-0000-0000-0000-000000000000/payload", True),
        ("HEAD", "/v1//secrets/00000000-0000-0000-0000-000000000000/payload/", True),
        ("PUT", "/v1/secrets/00000000-0000-0000-0000-000000000000", False),
        ("GET", "/v1/secrets/00000000-0000-0000-0000-000000000000/metadata", False),
        ("GET", "/v1/secrets", False),
    ],
)
def test_a_request_that_could_return_a_payload_is_known(method: str, path: str, *, could: bool) -> None:
    """The control of what the canary says about requests."""
    assert could_return_a_payload(Request("barbican", method, path, 0, None)) is could


def _listing(name: str, version: str) -> dict[str, str]:
    return {"name": f"vps-1/{name}", "secret_ref": f"https://b/v1/secrets/{version}"}


def test_what_must_not_be_asked_is_found() -> None:
    """Another VPS's user, a project, an entry that goes too early: each planted, each found."""
    made = Request("barbican", "POST", "/v1/containers", 201, {"name": "vps-1", "secret_refs": []}, "c")
    good = {"read": {"users": ["u1"], "project-access": False}}
    users = {"vps-1": "u1", "vps-2": "u2"}
    right = [
        made,
        Request("barbican", "PUT", "/v1/containers/c/acl", 200, good),
        Request("barbican", "POST", "/v1/containers/c/secrets", 201, _listing("A", "1")),
        Request("barbican", "POST", "/v1/containers/c/secrets", 201, _listing("A~2", "2")),
        Request("barbican", "DELETE", "/v1/containers/c/secrets", 204, _listing("A", "1")),
    ]
    found = examined(right, users, {})
    assert (found.named, found.removed) == (1, 1)
    for wrong in (
        [
            made,
            Request(
                "barbican", "PUT", "/v1/containers/c/acl", 200, {"read": {**good["read"], "users": ["u2"]}}
            ),
        ],
        [
            made,
            Request(
                "barbican",
                "PUT",
                "/v1/containers/c/acl",
                200,
                {"read": {**good["read"], "project-access": True}},
            ),
        ],
        [*right[:3], right[4]],
        [Request("barbican", "GET", "/v1/secrets/00000000-0000-0000-0000-000000000000", 406, None)],
    ):
        with pytest.raises(AssertionError):
            examined(wrong, users, {})
