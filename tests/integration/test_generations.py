"""Runs of the agent are told apart: no watcher misses a change over a stop, and none keeps asking."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from agent.core.rotation import Unread
from agent.serve.store.published import FILE
from lab.demo.application import Application
from lab.demo.screen import digest
from lab.testbed.fakes.fetch_server import World
from lab.testbed.running import ROOT, Agent, UnixConnection, fake_configuration

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EXAMPLES = ROOT / "docs" / "examples"
PROGRAMS = {
    "node": (shutil.which("node") or "node is missing", str(EXAMPLES / "app.mjs")),
    "python": (sys.executable, str(EXAMPLES / "app.py")),
}
GRANTS = (
    '[[grant]]\nuser = "root"\nsecrets = ["A", "B"]\n'
    '[[grant]]\nunit = "one.service"\nsecrets = ["A"]\n[[grant]]\nunit = "two.service"\nsecrets = ["B"]\n'
)


@dataclass
class Restarting:
    """An agent that is stopped in order and started again; ``signs`` is its runtime directory, or None."""

    signs: Path | None
    world: World = field(default_factory=World)

    def __post_init__(self) -> None:
        for name in "AB":
            self.world.put(name, b"first")
        environ = {"RUNTIME_DIRECTORY": str(self.signs)} if self.signs else {}
        self.agent = Agent(lambda where: fake_configuration(where, self.world, GRANTS)[1], environ)

    def stop(self) -> None:
        """Stop it in order: nothing is kept."""
        assert self.agent.stop() == 0
        (self.agent.directory / "fetch.sock").unlink()

    def again(self) -> None:
        """Stop and start it."""
        self.stop()
        self.agent.start().until_ready()

    def times(self) -> dict[str, int]:
        """Return when each sign was touched last."""
        assert self.signs is not None
        return {p.name: p.stat().st_mtime_ns for p in self.signs.iterdir() if not p.name.startswith("~")}


@pytest.fixture(params=["with /run", "without /run"])
def restarting(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Restarting]:
    """A running agent, whose runtime directory outlives it, or is lost each time."""
    made = Restarting(tmp_path if request.param == "with /run" else None)
    with made.agent:
        made.agent.start().until_ready()
        yield made


@pytest.fixture
def remembering(tmp_path: Path) -> Iterator[Restarting]:
    """A running agent whose runtime directory outlives it."""
    made = Restarting(tmp_path)
    with made.agent:
        made.agent.start().until_ready()
        yield made


@pytest.mark.parametrize("language", PROGRAMS)
def test_the_examples_miss_no_rotation_over_a_stop(restarting: Restarting, language: str) -> None:
    """They wait, get 204 from the agent that stops, and ask the next one."""
    application = Application(restarting.agent.app, PROGRAMS[language])
    try:
        assert application.next_reading() == {"A": digest(b"first"), "B": digest(b"first")}
        for value in (b"second", b"third"):
            restarting.agent.until(lambda: restarting.agent.status()["watchers"] == 1)
            restarting.stop()
            restarting.world.rotate("A", value)
            restarting.agent.start()
            assert application.next_reading() == {"A": digest(value), "B": digest(b"first")}
    finally:
        application.close()


def test_the_command_misses_no_rotation_over_a_stop(restarting: Restarting) -> None:
    """Nor does vps-secrets watch."""
    line = [sys.executable, "-m", "agent.cli", "watch", "--socket", str(restarting.agent.app)]
    with subprocess.Popen(
        line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as watch:
        assert watch.stdout is not None
        assert [watch.stdout.readline().split()[0] for _ in "AB"] == ["A", "B"]
        restarting.agent.until(lambda: restarting.agent.status()["watchers"] == 1)
        restarting.stop()
        version = restarting.world.rotate("A", b"second")
        restarting.agent.start()
        assert watch.stdout.readline() == f"A {version}\n"
        watch.send_signal(2)
        assert watch.wait(20) == 130


def test_a_generation_of_a_former_run_is_none_of_this_one(restarting: Restarting) -> None:
    """A watcher of before learns what has changed; an ETag of before is no match."""
    agent = restarting.agent
    before, etag = agent.generation, agent.get("/v1/bundle").headers["etag"]
    restarting.stop()
    restarting.world.rotate("A", b"second")
    agent.start().until_ready()
    told = agent.get(f"/v1/watch?after={before}&timeout=60").json
    assert told["generation"] == agent.generation > before
    assert told["changed"] == (["A"] if restarting.signs else ["A", "B"])
    assert agent.get("/v1/bundle", headers={"If-None-Match": etag}).status == 200


def test_all_that_was_readable_may_be_gone(restarting: Restarting) -> None:
    """Whoever waits since before learns that too."""
    before = restarting.agent.generation
    restarting.stop()
    restarting.world.entries.clear()
    restarting.agent.start()  # without a secret it is not ready
    told = restarting.agent.get(f"/v1/watch?after={before}&timeout=60").json
    assert told["generation"] > before
    assert told["changed"] == (["A", "B"] if restarting.signs else [])
    assert restarting.agent.get(f"/v1/watch?after={told['generation']}&timeout=0").status == 204


def test_a_restart_that_changed_nothing_wakes_nobody(remembering: Restarting) -> None:
    """The generation goes on, the ETag matches, no sign is touched."""
    agent = remembering.agent
    before, etag, signs = agent.generation, agent.get("/v1/bundle").headers["etag"], remembering.times()
    remembering.again()
    assert agent.generation == before
    assert agent.get(f"/v1/watch?after={before}&timeout=0").status == 204
    assert agent.get("/v1/bundle", headers={"If-None-Match": etag}).status == 304
    assert remembering.times() == signs == {}


def test_a_secret_that_rotated_meanwhile_reaches_its_unit(remembering: Restarting) -> None:
    """And no other unit; a second restart touches nothing."""
    assert remembering.times() == {}
    remembering.stop()
    remembering.world.rotate("A", b"second")
    remembering.agent.start().until_ready()
    remembering.agent.until(lambda: "one" in remembering.times())
    signs = remembering.times()
    assert sorted(signs) == ["all", "one"]  # all: root's grant names no unit
    remembering.again()
    remembering.agent.until(lambda: remembering.agent.status()["cycles"]["total"] > 0)
    assert remembering.times() == signs


def test_a_unit_that_could_not_be_told_is_told_later(remembering: Restarting) -> None:
    """By this run, once its sign can be touched, or by the next one; others are not told twice meanwhile."""
    assert remembering.signs is not None
    one = remembering.signs / "one"
    one.symlink_to(remembering.signs / "missing" / "one")  # can't be made, as on a full /run
    remembering.world.rotate("A", b"second")
    _refresh(remembering)
    remembering.agent.until(lambda: f"can't touch {one}: " in remembering.agent.log)
    everybody = (remembering.signs / "all").stat().st_mtime_ns
    _refresh(remembering)
    one.unlink()
    _refresh(remembering)
    remembering.agent.until(one.exists)
    assert (remembering.signs / "all").stat().st_mtime_ns == everybody

    one.unlink()
    one.symlink_to(remembering.signs / "missing" / "one")
    remembering.world.rotate("A", b"third")
    _refresh(remembering)
    remembering.stop()
    one.unlink()
    remembering.agent.start().until_ready()
    remembering.agent.until(one.exists)


def test_a_record_that_could_not_be_written_is_written_later(remembering: Restarting) -> None:
    """Else the next run would tell of changes that everybody knows."""
    assert remembering.signs is not None
    record = remembering.signs / FILE
    new = record.with_suffix(".new")
    new.symlink_to(remembering.signs / "missing" / "new")
    remembering.world.rotate("A", b"second")
    _refresh(remembering)
    remembering.agent.until(lambda: f"can't write {record}" in remembering.agent.log)
    new.unlink()
    _refresh(remembering)
    versions = dict(remembering.world.entries)
    remembering.agent.until(lambda: json.loads(record.read_text())["versions"] == versions)


def _refresh(restarting: Restarting) -> None:
    restarting.agent.until(lambda: restarting.agent.ask_control("/v1/refresh", "POST").status == 200)


def test_a_secret_that_can_not_be_read_is_not_taken_for_changed(remembering: Restarting) -> None:
    """Its unit is not reloaded, neither when it is unreadable nor when it is there again."""
    version = dict(remembering.world.entries)["B"]
    remembering.stop()
    remembering.world.unread[version] = Unread.FAILED
    remembering.agent.start()
    remembering.agent.until(lambda: remembering.agent.status()["cycles"]["total"] > 0)
    assert remembering.agent.get("/v1/secrets/B").problem == "secret-unavailable"
    remembering.world.unread.clear()
    remembering.agent.until(lambda: remembering.agent.ask_control("/v1/refresh", "POST").status == 200)
    remembering.agent.until(lambda: remembering.agent.get("/v1/secrets/B").status == 200)
    assert remembering.times() == {}


@pytest.mark.parametrize("damage", [b"", b"{", b'{"format": 2}', b"\xff" * 5000])
def test_a_damaged_record_is_none(remembering: Restarting, damage: bytes) -> None:
    """It is logged, and watchers learn all names."""
    before = remembering.agent.generation
    remembering.stop()
    assert remembering.signs is not None
    (remembering.signs / FILE).write_bytes(damage)
    remembering.agent.start().until_ready()
    assert remembering.agent.get(f"/v1/watch?after={before}").json["changed"] == ["A", "B"]
    assert f"{FILE}: what was published" in remembering.agent.log


def test_what_is_remembered_holds_no_value_and_is_the_agents_own(remembering: Restarting) -> None:
    """Names and versions, for nobody else to read."""
    assert remembering.signs is not None
    record = remembering.signs / FILE
    assert record.stat().st_mode & 0o077 == 0
    assert json.loads(record.read_text())["versions"] == dict(remembering.world.entries)
    assert (b"first" in record.read_bytes()) is False


def test_a_generation_that_is_yet_to_come_keeps_nobody_busy(restarting: Restarting) -> None:
    """A client that insists on it asks once a second; one that takes what it is given waits then."""
    agent = restarting.agent
    began = time.monotonic()
    for _ in range(3):
        told = agent.get("/v1/watch?after=999999999999999&timeout=60").json
        assert told == {"generation": agent.generation, "changed": ["A", "B"]}
    assert time.monotonic() - began >= 3
    assert agent.get(f"/v1/watch?after={told['generation']}&timeout=0").status == 204


def test_a_wider_grant_between_reading_and_waiting_is_heard_of(remembering: Restarting) -> None:
    """By whoever waits since before, also over a restart; a narrower one wakes nobody, nor does none."""
    agent = remembering.agent
    text = agent.configuration.read_text()
    _reload(agent, text.replace('secrets = ["A", "B"]', 'secrets = ["A"]'))
    before = agent.generation
    assert agent.get(f"/v1/watch?after={before}&timeout=0").status == 204
    _reload(agent, text)
    told = agent.get(f"/v1/watch?after={before}&timeout=0").json
    assert told["changed"] == ["B"]
    assert told["generation"] == agent.generation > before
    assert agent.get(f"/v1/watch?after={told['generation']}&timeout=0").status == 204

    _reload(agent, text.replace('secrets = ["A", "B"]', 'secrets = ["B"]'))
    remembering.stop()
    agent.write(text)
    agent.start().until_ready()
    assert agent.get(f"/v1/watch?after={told['generation']}&timeout=0").json["changed"] == ["A"]
    assert remembering.times() == {}, "no value has changed"


def _reload(agent: Agent, text: str) -> None:
    agent.write(text)
    before = agent.log.count("configuration loaded again")
    agent.signal(signal.SIGHUP)
    agent.until(lambda: agent.log.count("configuration loaded again") > before)


def test_an_event_stream_goes_on_where_it_was_lost(restarting: Restarting) -> None:
    """A client that has had no event yet knows an id, and sends it with its first target."""
    before = restarting.agent.generation
    assert _events(restarting.agent, "/v1/watch", {}, 1) == [f"id: {before}"]
    restarting.stop()
    restarting.world.rotate("A", b"second")
    restarting.agent.start().until_ready()
    target = f"/v1/watch?after={restarting.agent.generation}"
    events = _events(restarting.agent, target, {"Last-Event-ID": str(before)}, 2)
    assert events[0] == f"id: {before}"
    assert events[1].startswith(f"event: changed\nid: {restarting.agent.generation}\ndata: ")
    wrong = restarting.agent.get(target, headers={"Accept": "text/event-stream", "Last-Event-ID": "x"})
    assert (wrong.status, wrong.problem) == (400, "bad-parameter")


def _events(agent: Agent, target: str, headers: dict[str, str], count: int) -> list[str]:
    """Return the first events of a stream."""
    connection = UnixConnection(agent.app)
    connection.request("GET", target, headers={"Accept": "text/event-stream"} | headers)
    response = connection.getresponse()
    text = b""
    while text.count(b"\n\n") < count:
        text += response.readline()
    connection.close()
    return text.decode().strip().split("\n\n")
