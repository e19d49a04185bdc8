"""Each alert provoked for real, by agent, deployer and Prometheus; it ends when its cause does.

What takes minutes on a site takes seconds here: ``for`` and the ranges are cut, nothing else of the rules.
That each also waits for its time, and is silent for less, is tests/alerts.yml.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
import time
from typing import TYPE_CHECKING, Final

import pytest

from agent.core.errors import Failure, Fault, Step
from agent.core.renewal import RECORD
from deployer.core.lifetimes import PREFIX
from deployer.database import backups, checks, rotations, secrets, vpses
from deployer.database.secrets import SeenSecret
from lab.testbed.certificates import SCRAPER, api_tls, scrape_config
from lab.testbed.deployer import Api
from lab.testbed.fakes.fetch_server import World
from lab.testbed.prometheus import Prometheus, metrics_door
from lab.testbed.running import Agent, Caller, fake_configuration
from tests.integration.test_audit_unavailable import Piped
from tests.integration.test_beacon import BEACON, GONE, Sky
from tests.integration.test_deployer_api import NEW, as_the_worker
from tests.integration.test_deployer_api_hostile import prepared
from tests.integration.test_prometheus import RULES, alerts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.long
NOBODY: Final = Caller(65534, 65534)
CONFIGURATION: Final = (
    f'{BEACON}[rotation]\npoll_interval = "1s"\nbackoff_base = "1s"\nbackoff_cap = "1s"\n'
    '[[grant]]\nuser = "root"\nsecrets = ["*"]\n[[grant]]\nuser = "nobody"\nsecrets = ["NEW"]\n'
)
DENIED: Final = Failure(Step.PERMISSION, Fault.DENIED, "to read the container", "look at its ACL", 403)
DOWN: Final = Failure(Step.BARBICAN, Fault.TRANSIENT, "to read the container", "look at its log", 503)
DAY_S: Final = 86400.0


class Site:
    """An agent, a deployer, and what watches them."""

    world: World
    sky: Sky
    agent: Agent
    api: Api
    prometheus: Prometheus
    place: Path

    def until_firing(self, *names: str) -> None:
        """Wait until these alerts fire."""
        self.prometheus.until(lambda: self.prometheus.firing() >= set(names))

    def until_over(self, *names: str) -> None:
        """Wait until none of them does."""
        self.prometheus.until(lambda: not self.prometheus.firing() & set(names))

    def as_the_worker(self, act: Callable[..., None], vps_id: str = "vps-1") -> None:
        """Do something with a VPS while it is held, as a worker does."""
        with self.api.database.write() as c:
            now = time.time()
            row = vpses.claim(c, now, vps_id, "w", 60.0)
            assert row is not None
            act(c, now)
            vpses.give_back(c, "w")

    def sees(self, state: str) -> None:
        """Write what a worker finds."""
        self.as_the_worker(lambda c, now: vpses.seen(c, now, "vps-1", "w", state=state))

    def looked(self, failures: int, error: str) -> None:
        """Write how a look went; that gives the VPS back, too."""
        self.as_the_worker(
            lambda c, now: vpses.release(
                c, now, "vps-1", "w", next_look=now + 60, failures=failures, error=error
            )
        )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """All well, and no alert fires."""
    made = Site()
    made.world, made.sky = World(), Sky()
    made.world.put("A", b"canary-value")
    made.place = tmp_path_factory.mktemp("alerts")
    made.world.put("NEW", b"canary-value")
    place = made.place
    rules = place / "rules.yml"
    rules.write_text(in_seconds(RULES.read_text()))

    def configuration(directory: Path) -> str:
        server, text = fake_configuration(directory, made.world, CONFIGURATION)
        server.watch = made.sky.reply
        made.agent.text = text  # for a start after this one
        return text

    backup = f'[[backup]]\nname = "nearby"\ndirectory = "{place}"\nrecipients = ["age1{"q" * 58}"]\n'
    with contextlib.ExitStack() as stack:
        made.agent = stack.enter_context(Agent(configuration))
        made.agent.start().until_ready()
        port, tls = api_tls(place, days=90)
        made.api = stack.enter_context(Api(SCRAPER + backup, api=tls))
        prepared(made.api)
        backed_up(made)
        as_the_worker(made.api.database)
        address = stack.enter_context(metrics_door(made.agent))
        jobs: dict[str, dict[str, object]] = {
            "vps-secrets-agent": {"target": address},
            "vps-secrets-deployer": scrape_config(place, port),
        }
        made.prometheus = stack.enter_context(Prometheus(jobs, rules))
        assert made.agent.get("/v1/secrets/A").status == 200
        made.prometheus.until(lambda: made.prometheus.value("sum(up)") == 2)
        made.prometheus.until(lambda: not made.prometheus.firing())
        yield made


def in_seconds(rules: str) -> str:
    """Cut the times of rules: no ``for``, ranges of ten seconds, no hour after the start."""
    rules = re.sub(r"for: \d+[smh]", "for: 0s", rules)
    return rules.replace("[10m]", "[10s]").replace("> 3600", "> 0")


def backed_up(site: Site, error: str = "") -> None:
    """Write how a backup went."""
    with site.api.database.write() as c:
        now = time.time()
        number = backups.begin(c, now, f"directory {site.place}", "test")
        if error:
            backups.failed(c, now, number, error)
        else:
            backups.written(c, now, number, "a", "d", size=1, vpses=0, secrets=0)


PROVOKED: Final = {"VpsSecretsAuditUnavailable", "VpsSecretsAgentAway", "VpsSecretsDeployerAway"}
"""By tests of their own, since more than one thing ends."""


def barbican_says(failure: Failure) -> Callable[[Site], Iterator[None]]:
    """Have every reading fail."""

    def cause(site: Site) -> Iterator[None]:
        site.world.failure = failure
        yield
        site.world.failure = None

    return cause


def credential_ends_soon(site: Site) -> Iterator[None]:
    """Keystone says so."""
    site.world.credential_expires = time.time() + DAY_S
    yield
    site.world.credential_expires = time.time() + 90 * DAY_S


def beacon_is_gone(site: Site) -> Iterator[None]:
    """Its object was deleted."""
    site.sky.failure = GONE
    yield
    site.sky.failure = None


def calls_are_many(site: Site) -> Iterator[None]:
    """More than a new limit; the next month would end it, here an end of the limit."""
    text = site.agent.configuration.read_text()
    site.world.calls = 1_000_000
    site.agent.write(f"{text}\n[budget]\ncalls_per_month = 900000\n")
    site.agent.signal(signal.SIGHUP)
    site.agent.until(lambda: "vps_secrets_month_calls 1" in site.agent.ask_control("/metrics").body.decode())
    site.world.calls = 1
    yield
    site.agent.write(text)
    site.agent.signal(signal.SIGHUP)


def nobody_asks_in_vain(site: Site) -> Iterator[None]:
    """Again and again."""
    over = threading.Event()

    def ask() -> None:
        while not over.wait(0.2):
            NOBODY.ask(site.agent.app, "/v1/secrets/A")

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield
    finally:
        over.set()
        asking.join()


def nobody_reads(site: Site) -> Iterator[None]:
    """A grant allows it, and it never happened before."""
    assert NOBODY.ask(site.agent.app, "/v1/secrets/NEW") == (200, "")
    yield
    assert NOBODY.ask(site.agent.app, "/v1/secrets/NEW") == (200, "")


def renewal_failed(site: Site) -> Iterator[None]:
    """What vps-secrets-renew writes is damaged."""
    record = site.agent.configuration.with_name(RECORD)
    record.write_text("{")
    yield
    record.unlink()


def configuration_is_wrong(site: Site) -> Iterator[None]:
    """An operator's mistake."""
    text = site.agent.configuration.read_text()
    site.agent.write("nonsense = 1\n" + text)
    site.agent.signal(signal.SIGHUP)
    yield
    site.agent.write(text)
    site.agent.signal(signal.SIGHUP)


def rotation_is_late(site: Site) -> Iterator[None]:
    """Wanted, due ten minutes ago, and it has not arrived."""
    with site.api.database.write() as c:
        now = time.time()
        wanted = rotations.want(
            c, now, "vps-1", "session", ["JWT_SECRET"], reason="schedule", asked_by="worker", due=now - 600
        )
    yield
    with site.api.database.write() as c:
        rotations.progress(c, wanted, "arrived", time.time())


def nobody_works(site: Site) -> Iterator[None]:
    """A secret is past its date, and no worker has wanted its rotation."""

    def due(at: float) -> None:
        with site.api.database.write() as c:
            found = SeenSecret("SESSION_SECRET", "random", "session", NEW, at - DAY_S, at, at - 1)
            secrets.seen(c, "vps-1", [found])

    due(time.time() - 60)
    yield
    due(time.time() + 30 * DAY_S)


def backup_failed(site: Site) -> Iterator[None]:
    """The disk was full."""
    backed_up(site, "the disk is full.")
    yield
    backed_up(site)


def vps_joins(site: Site) -> Iterator[None]:
    """A second one was wished, and never serves."""
    with site.api.database.write() as c:
        vpses.wish(c, time.time(), "vps-2", "backend", labels={}, actor="unix:ops")
    yield
    site.as_the_worker(
        lambda c, now: vpses.seen(
            c, now, "vps-2", "w", state="current", served="g1", served_at=now, looked_at=now
        ),
        "vps-2",
    )


def looks_fail(site: Site) -> Iterator[None]:
    """Barbican does not answer the worker."""
    site.looked(3, "Barbican is away")
    yield
    site.looked(0, "")


def state_is(state: str) -> Callable[[Site], Iterator[None]]:
    """Have the worker find the VPS so."""

    def cause(site: Site) -> Iterator[None]:
        site.sees(state)
        yield
        site.sees("current")

    return cause


def deployer_credential_ends(site: Site) -> Iterator[None]:
    """The worker says when its own ends."""
    with site.api.database.write() as c:
        now = time.time()
        checks.record(c, now, f"{PREFIX}worker", passed=False, detail={"ends": now + DAY_S})
    yield
    with site.api.database.write() as c:
        checks.record(c, now, f"{PREFIX}worker", passed=True, detail={"ends": now + 300 * DAY_S})


CAUSES: Final = {
    "VpsSecretsNotReady": barbican_says(DENIED),
    "VpsSecretsDenied": barbican_says(DENIED),
    "VpsSecretsStale": barbican_says(DOWN),
    "VpsSecretsFetchFailing": barbican_says(DOWN),
    "VpsSecretsCredentialExpiring": credential_ends_soon,
    "VpsSecretsBeaconLost": beacon_is_gone,
    "VpsSecretsBudget": calls_are_many,
    "VpsSecretsRefusals": nobody_asks_in_vain,
    "VpsSecretsNewReader": nobody_reads,
    "VpsSecretsRenewalFailing": renewal_failed,
    "VpsSecretsConfiguration": configuration_is_wrong,
    "VpsSecretsRotationLate": rotation_is_late,
    "VpsSecretsWorkerAway": nobody_works,
    "VpsSecretsBackupOld": backup_failed,
    "VpsSecretsJoinStuck": vps_joins,
    "VpsSecretsDeployerFailing": looks_fail,
    "VpsSecretsKeyConflict": state_is("two-keys"),
    "VpsSecretsClaimedWithoutKey": state_is("claimed-without-key"),
    "VpsSecretsDeployerCredential": deployer_credential_ends,
}


@pytest.mark.parametrize("name", CAUSES)
def test_an_alert_begins_and_ends_with_its_cause(site: Site, name: str) -> None:
    """Silent before, firing during, silent after."""
    assert name not in site.prometheus.firing()
    cause = contextlib.contextmanager(CAUSES[name])
    with cause(site):
        site.until_firing(name)
    site.until_over(name)


def test_whoever_is_away_is_told(site: Site) -> None:
    """The agent, then the deployer; both come back."""
    site.agent.stop()
    site.until_firing("VpsSecretsAgentAway")
    site.agent.start()
    site.until_over("VpsSecretsAgentAway")
    site.api.end()
    site.until_firing("VpsSecretsDeployerAway")
    site.api.start()
    site.until_over("VpsSecretsDeployerAway")


def test_no_record_no_answer_and_an_alert(tmp_path: Path) -> None:
    """What reads the agent's records stands still, and goes on."""
    rules = tmp_path / "rules.yml"
    rules.write_text(in_seconds(RULES.read_text()))
    world = World()
    world.put("A", b"canary-value")
    grant = '[[grant]]\nuser = "root"\nsecrets = ["*"]\n'
    with Piped(lambda directory: fake_configuration(directory, world, grant)[1]) as agent:
        agent.start().until_ready()
        with metrics_door(agent) as address, Prometheus({"a": {"target": address}}, rules) as prometheus:
            agent.until(lambda: agent.get("/v1/secrets/A").problem == "audit-unavailable")
            prometheus.until(lambda: "VpsSecretsAuditUnavailable" in prometheus.firing())
            with os.fdopen(agent.reader, "rb") as reader:
                os.set_blocking(reader.fileno(), False)
                agent.until(lambda: bool(reader.read()) and agent.get("/v1/secrets/A").status == 200)
                prometheus.until(lambda: bool(reader.read() or 1) and not prometheus.firing())


def test_every_alert_is_provoked_here() -> None:
    """One that is new has its cause, or this fails."""
    assert {alert["alert"] for alert in alerts()} == {*CAUSES, *PROVOKED}
