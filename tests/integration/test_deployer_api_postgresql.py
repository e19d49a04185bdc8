"""The same API on a real PostgreSQL, and two of its processes beside each other."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import create_engine, text

from deployer.database import blueprints
from lab.testbed.dashboard import LATE, fill
from lab.testbed.deployer import Api, until
from lab.testbed.postgresql import Postgresql
from lab.testbed.running import ROOT
from tests.integration import test_deployer_api as cases

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(scope="module")
def server() -> Iterator[Postgresql]:
    """Give a server that the tests of this file take turns with."""
    with Postgresql() as made:
        yield made


@pytest.fixture
def url(server: Postgresql) -> str:
    """Give the address of a database that is empty."""
    engine = create_engine(server.url, future=True)
    with engine.begin() as c:
        c.execute(text("DROP SCHEMA public CASCADE"))
        c.execute(text("CREATE SCHEMA public"))
    engine.dispose()
    return server.url


@pytest.mark.parametrize(
    "case",
    [
        # what waits for locks, and what reads most of the tables
        cases.test_many_at_once_under_one_key,
        cases.test_many_rotate_in_waves_over_a_restart,
        cases.test_pages_of_lists,
        *(
            pytest.param(case, marks=pytest.mark.nightly)
            for case in (
                cases.test_a_portal_asks_for_a_vps_and_waits_for_the_operation,
                cases.test_the_same_key_is_the_same_operation,
                cases.test_a_rotation_by_hand,
                cases.test_a_rollback_lists_the_former_versions,
                cases.test_access_is_taken_away_given_back_and_ended,
                cases.test_figures_for_people_and_prometheus,
            )
        ),
    ],
    ids=lambda case: case.__name__[5:],
)
def test_on_postgresql(url: str, case: Callable[[Api], None]) -> None:
    """As on SQLite."""
    with Api(database=url) as api:
        with api.database.write() as c:
            blueprints.put(c, time.time(), "backend", '[JWT_SECRET]\nkind = "random"\n', "unix:ops")
        case(api)


def test_the_pages_on_postgresql(url: str) -> None:
    """Every filter, and the pages of one VPS."""
    with Api(database=url) as api:
        fill(api.database, 3000)
        assert "of 3,000 VPSs need somebody." in api.ask("GET", "/").body.decode()
        for path in (
            *(
                "/?look=late",
                "/?label=env=stage",
                "/?q=-1",
                "/?look=fine&after=6:vps-prod-1&label=region=fra",
            ),
            *(f"/vps/{LATE}", "/history", "/operations", "/backups", "/metrics", "/v1/figures"),
        ):
            assert api.ask("GET", path).status == 200


def test_two_processes_carry_an_order_out_once(url: str) -> None:
    """Both see to orders for many; each VPS rotates once, whoever orders it."""
    with Api(database=url) as first:
        with first.database.write() as c:
            blueprints.put(c, time.time(), "backend", '[JWT_SECRET]\nkind = "random"\n', "unix:ops")
        for number in range(8):
            cases.provision(first, f"vps-{number}")
            cases.as_the_worker(first.database, f"vps-{number}")
        with Api(database=url) as second:
            found: list[str] = []

            def ask(api: Api) -> None:
                body = {"reason": "r", "all": True, "names": ["JWT_SECRET"]}
                answer = api.ask("POST", "/v1/rotate", body, headers={"Idempotency-Key": "many"})
                found.append(answer.json["id"])

            threads = [threading.Thread(target=ask, args=(api,)) for api in (first, second) * 4]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len(set(found)) == 1
            until(lambda: len(first.ask("GET", "/v1/rotations").json["items"]) == 8)
            for number in range(8):
                cases.arrived(first.database, f"vps-{number}")
            until(lambda: cases.state_of(second, found[0]) == "done")
            entries = second.ask("GET", "/v1/history?limit=1000").json["items"]
            assert [entry["action"] for entry in entries].count("rotation.want") == 8


def test_an_api_says_that_its_database_is_away() -> None:
    """Started without it, it tells whoever asks; when it is there, it makes its tables and answers."""
    with Postgresql() as server:
        api = Api(database=server.url)  # its tables were made, and are lost again
        api.database.close()
        engine = create_engine(server.url, future=True)
        with engine.begin() as c:
            c.execute(text("DROP SCHEMA public CASCADE"))
            c.execute(text("CREATE SCHEMA public"))
        engine.dispose()
        server.stop()
        with api:
            for _ in range(2):
                refused = api.ask("PUT", "/v1/vps/vps-1", {"blueprint": "backend"})
                assert (refused.status, refused.headers["retry-after"]) == (503, "5")
                assert "the server gives no session" in refused.json["detail"]
                assert (
                    "Nothing was changed. Ask again with the same Idempotency-Key" in refused.json["detail"]
                )
            page = api.ask("GET", "/")
            assert (page.status, "the server gives no session" in page.body.decode()) == (503, True)
            for words in ("status", "vps list", "rotate vps-1 --reason test"):
                line = [sys.executable, "-m", "deployer.cli", *words.split(), "--socket", str(api.socket)]
                done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=ROOT)
                assert (done.returncode, done.stdout) == (1, "")
                assert "its log says which. Nothing was changed. Ask again" in done.stderr
            line = [sys.executable, "-m", "deployer.cli", "look", "--all"]
            line += ["--config", str(api.directory / "deployer.toml")]
            done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=ROOT)
            assert (done.returncode, "run it again when that is mended" in done.stderr) == (1, True)
            server.start()
            until(lambda: api.ask("GET", "/v1/vps").status == 200)
            assert api.ask("GET", "/").status == 200
            assert "Until it answers, every request is refused with 503" in api.log.read_text()


@pytest.mark.parametrize("ask", ["claim", "give"])
def test_what_can_not_be_had_again_is_answered_though_the_database_goes_away(ask: str) -> None:
    """A password that is told once, a value that is stored; later the operation is seen to be done."""
    with Postgresql() as server, Api(database=server.url) as api:
        assert api.parts is not None
        with api.database.write() as c:
            text_of = '[JWT_SECRET]\nkind = "random"\n[SMTP_PASSWORD]\nkind = "external"\nrotate = "90d"\n'
            blueprints.put(c, time.time(), "backend", text_of, "unix:ops")
        cases.provision(api)
        api.parts.meanwhile = lambda path: None if path == "/wake" else server.stop()
        if ask == "claim":
            answer = api.ask("POST", "/v1/vps/vps-1/claim")
            assert (answer.status, answer.json["oneTimePassword"]) == (200, "p")
        else:
            kind = {"Content-Type": "application/octet-stream"}
            answer = api.ask("PUT", "/v1/vps/vps-1/secrets/SMTP_PASSWORD", body=b"x", headers=kind)
            assert answer.status == 202
        assert "is done, and that could not be written down yet" in api.log.read_text()
        server.start()
        cases.as_the_worker(api.database)
        with api.database.write() as c:
            c.execute(text("UPDATE vps SET looked_at = looked_at + 120"))
            c.execute(text("UPDATE secret SET created = :at WHERE kind = 'external'"), {"at": time.time()})
        until(lambda: cases.state_of(api, answer.json["operation" if ask == "claim" else "id"]) == "done")
