"""The dashboards for Grafana, as far as they can be tried without one: every query, by a real Prometheus."""

from __future__ import annotations

import contextlib
import json
import re
import time
from itertools import combinations
from typing import TYPE_CHECKING, Any

import pytest

from deployer.core.lifetimes import PREFIX
from deployer.database import backups, checks
from lab import dashboards
from lab.dashboards import DASHBOARDS, EXAMPLES, WHOLE
from lab.testbed.certificates import SCRAPER, api_tls, scrape_config
from lab.testbed.deployer import Api
from lab.testbed.fakes.fetch_server import World
from lab.testbed.prometheus import Prometheus, metrics_door
from lab.testbed.running import Agent, fake_configuration

if TYPE_CHECKING:
    from collections.abc import Iterator

GRANT = '[[grant]]\nuser = "root"\nsecrets = ["*"]\n'


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """One that has scraped an agent and a deployer with something of everything."""
    place = tmp_path_factory.mktemp("grafana")
    port, tls = api_tls(place)
    backup = f'[[backup]]\nname = "nearby"\ndirectory = "{place}"\nrecipients = ["age1{"q" * 58}"]\n'
    world = World(credential_expires=time.time() + 1000)
    world.put("A", b"canary-value")
    with (
        Agent(lambda directory: fake_configuration(directory, world, GRANT)[1]) as agent,
        Api(SCRAPER + backup, api=tls) as api,
    ):
        agent.start().until_ready()
        agent.get("/v1/secrets/A")
        with api.database.write() as c:
            now = time.time()
            number = backups.begin(c, now, f"directory {place}", "test")
            backups.written(c, now, number, "a", "d", size=1, vpses=0, secrets=0)
            checks.record(c, now, f"{PREFIX}worker", passed=True, detail={"ends": now + 10_000})
        with metrics_door(agent) as address:
            jobs: dict[str, dict[str, object]] = {
                "vps-secrets-agent": {"target": address},
                "vps-secrets-deployer": scrape_config(place, port),
            }
            with Prometheus(jobs) as made:
                made.until(lambda: made.value("min(count_over_time(up[5m]))") not in {None, 0.0, 1.0, 2.0})
                yield made


def panels(name: str) -> list[dict[str, Any]]:
    """Return the panels of a file."""
    found: list[dict[str, Any]] = json.loads((EXAMPLES / name).read_text())["panels"]
    return found


@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_panel_has_something_to_show(prometheus: Prometheus, name: str) -> None:
    """A metric that was renamed, a label that is another, or no PromQL, would leave it empty."""
    with contextlib.suppress(AssertionError):
        prometheus.until(lambda: not empty(prometheus, name))  # a busy machine may have missed a scrape
    assert empty(prometheus, name) == set()
    assert prometheus.labels("vps_secrets_redy") == []


def empty(prometheus: Prometheus, name: str) -> set[str]:
    """Return the panels that show nothing now, or name a label that there is not."""
    ready = prometheus.labels("vps_secrets_ready")
    instance = ready[0]["instance"] if ready else "nobody"
    found = set()
    for panel in panels(name):
        for target in panel["targets"]:
            shown = prometheus.labels(target["expr"].replace("$vps", instance))
            wanted = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            if not shown or not wanted <= shown[0].keys():
                found.add(panel["title"])
    return found


@pytest.mark.parametrize("name", DASHBOARDS)
def test_the_files_are_what_the_script_makes(name: str) -> None:
    """Nobody edits them by hand."""
    uid, title, made = DASHBOARDS[name]
    assert (EXAMPLES / name).read_text() == dashboards.dashboard(uid, title, made)


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_have_places_of_their_own(name: str) -> None:
    """Within the columns, and none over another one."""
    found = panels(name)
    assert len({panel["id"] for panel in found}) == len(found)
    places = [panel["gridPos"] for panel in found]
    assert all(place["x"] + place["w"] <= WHOLE for place in places)
    for one, other in combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below
