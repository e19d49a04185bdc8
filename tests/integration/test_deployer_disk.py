"""A deployer whose disk is full or for reading only: which step failed is told, nothing is half made."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Final

import pytest

from deployer.database import blueprints, rotations
from lab.testbed.deployer import Api
from lab.testbed.fakes.barbican import FakeBarbican
from lab.testbed.running import ROOT
from lab.testbed.workers import PAIR, Workers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

VPS: Final = "vps-1"
WAIT_S: Final = 120.0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of a megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=0755", "none", str(place)], check=True)
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(disk: Path) -> Path:
    """Fill it to the last byte; return what does."""
    filler = disk / "filler"
    with filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    return filler


def test_a_worker_whose_disk_is_full_makes_nothing(disk: Path, tmp_path: Path) -> None:
    """It says so and goes on; when there is room again, what is due is made, by itself."""
    with FakeBarbican() as fake, Workers(fake, tmp_path, f"sqlite:///{disk}/deployer.db") as workers:
        workers.wish([VPS], PAIR)
        first = workers.start(0)
        workers.until(workers.all_provisioned, "never provisioned", WAIT_S)
        first.send_signal(signal.SIGKILL)
        first.wait()
        assert workers.make_due() == 1
        there = set(fake.secrets)
        filler = fill(disk)
        running = workers.start(0)

        def goes_on() -> None:
            nonlocal running
            if running.poll() is not None:  # it could not even open its database: systemd starts it again
                running = workers.start(0)

        def told() -> bool:
            goes_on()
            return workers.log().count("the disk is full. Make room on it") > 0

        workers.until(told, "not told", WAIT_S)
        assert set(fake.secrets) == there, "a version was made that nobody could write down"
        filler.unlink()

        def listed() -> bool:
            goes_on()
            with workers.database.read() as c:
                return {row.state for row in rotations.page(c)} == {"listed"}

        workers.until(listed, "it does not go on", WAIT_S)


def test_a_worker_that_may_only_read_makes_nothing(disk: Path, tmp_path: Path) -> None:
    """It says what it needs."""
    with FakeBarbican() as fake:
        with Workers(fake, tmp_path, f"sqlite:///{disk}/deployer.db") as workers:
            workers.wish([VPS], PAIR)
            workers.start(0)
            workers.until(workers.all_provisioned, "never provisioned", WAIT_S)
            workers.processes[0].terminate()
            workers.processes[0].wait(WAIT_S)
            assert workers.make_due() == 1
        there = set(fake.secrets)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "deployer.worker", "--config", str(tmp_path / "worker-0.toml")],
                cwd=ROOT,
                env=os.environ.copy(),
                stdout=log,
                stderr=log,
            )
        end = time.monotonic() + WAIT_S
        while "must be able to write in its folder" not in (tmp_path / "log").read_text():
            assert time.monotonic() < end, (tmp_path / "log").read_text()
            time.sleep(0.05)
        process.kill()
        process.wait()
        assert set(fake.secrets) == there


def test_an_api_whose_disk_is_full_changes_nothing(disk: Path) -> None:
    """It says so to whoever asks, goes on showing what is there, and takes the order when there is room."""
    with Api(database=f"sqlite:///{disk}/deployer.db") as api:
        with api.database.write() as c:
            blueprints.put(c, time.time(), "backend", PAIR, "unix:ops")
        filler = fill(disk)
        refused = api.ask("PUT", f"/v1/vps/{VPS}", {"blueprint": "backend"})
        assert refused.status == 503
        assert "the disk is full. Make room on it" in refused.json["detail"]
        assert "Nothing was changed." in refused.json["detail"]
        assert api.ask("GET", "/v1/vps").json["items"] == []
        filler.unlink()
        assert api.ask("PUT", f"/v1/vps/{VPS}", {"blueprint": "backend"}).status == 202
