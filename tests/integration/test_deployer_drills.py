"""The recoveries of docs/runbooks/, played with the real parts; each prints how long it took.

Real Keystone, Barbican, deployer, agents. Limits are generous: what is measured is printed, and noted in the
runbooks.
"""

from __future__ import annotations

import json
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import pytest

from common.names import SecretName, Version
from lab.testbed.cloud import Cloud
from lab.testbed.site import Site
from tests.integration.drilling import Command, Joined, Machine, Serve, barbican, delete, say, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.long

FIRST: Final = "vps-drill-001"
BLUEPRINT: Final = """
[JWT_SECRET]
kind = "random"
rotate = "30d"
group = "session"
[SESSION_SECRET]
kind = "random"
rotate = "30d"
group = "session"
[API_KEY]
kind = "random"
rotate = "90d"
[ADMIN_PASSWORD]
kind = "password"
rotate = "90d"
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
NAMES: Final = frozenset(
    {
        *("JWT_SECRET", "SESSION_SECRET", "API_KEY", "ADMIN_PASSWORD", "SIGNING_KEY"),
        *("ENCRYPTION_KEY", "SMTP_PASSWORD"),
    }
)
CANARY: Final = "canary-7f31-smtp"
MOST_S: Final = 300.0
"""For one secret, container, or database; the goal."""
FLEET: Final = 5


@pytest.fixture(scope="module")
def own_cloud() -> Iterator[Cloud]:
    """A cloud that may be broken."""
    with Cloud() as made:
        yield made


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, str]:
    """Make the operator's offline key: its file, and the public half."""
    identity = tmp_path / "offline-key"
    line = ["age-keygen", "-o", str(identity)]
    said = subprocess.run(line, capture_output=True, text=True, check=True).stderr
    return identity, said.rpartition(" ")[2].strip()


@pytest.fixture
def serve(own_cloud: Cloud, tmp_path: Path, keys: tuple[Path, str]) -> Iterator[Serve]:
    """A deployer whose every part runs, with the blueprint applied and a place for backups."""
    (tmp_path / "backups").mkdir()
    extra = (
        f'[[backup]]\nname = "nearby"\ndirectory = "{tmp_path}/backups"\nrecipients = ["{keys[1]}"]\n'
        f'every = "1d"\n[signing]\nkey_file = "{tmp_path}/signing-key"\n'
    )
    with Site(own_cloud, tmp_path, extra, worker='sweep = "1s"\n', registrar=False) as made:
        (tmp_path / "blueprints" / "backend.toml").write_text(BLUEPRINT)
        Command(made).local("blueprint", "apply")
        yield Serve(made)
        retire_all(made)


@pytest.fixture
def site(serve: Serve) -> Site:
    """The same, where nobody ends it."""
    return serve.site


@pytest.fixture
def sealing_site(own_cloud: Cloud, tmp_path: Path) -> Iterator[Site]:
    """A deployer whose every part runs, and which seals."""
    with Site(own_cloud, tmp_path, worker='sweep = "1s"\n', registrar=False, sealing="required") as made:
        (tmp_path / "blueprints" / "backend.toml").write_text(BLUEPRINT)
        Command(made).local("blueprint", "apply")
        Serve(made)
        yield made
        retire_all(made)


def retire_all(site: Site) -> None:
    """Leave nothing in the cloud, which the next test shares."""
    run = Command(site)
    for one in json.loads(run("vps", "list", "--json")):
        run("vps", "retire", one["id"], "--reason", "end", "--confirm", one["id"], "--no-wait")
    run.look_at_all()
    until(lambda: not json.loads(run("vps", "list", "--json")))


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Print how long something took, and hold it to the goal."""
    began = time.monotonic()
    yield
    took = time.monotonic() - began
    say(f"{what}: {took:.1f} s")
    assert took < MOST_S


def vps_of(run: Command) -> dict[str, str]:
    """Return what the API says of the VPS itself."""
    return dict(json.loads(run("vps", "show", FIRST, "--json"))["vps"])


def machine(site: Site, vps_id: str = FIRST) -> Machine:
    """Provision a VPS, give it what only a person has, start its agent."""
    run = Command(site)
    run("vps", "add", vps_id, "--blueprint", "backend")
    run("set", vps_id, "SMTP_PASSWORD", given=CANARY)
    made = Machine(site, run, vps_id)
    made.agent.start().until_ready()
    until(lambda: made.served().keys() == NAMES)
    return made


@pytest.mark.timeout(900)
@pytest.mark.nightly
def test_a_deleted_secret(site: Site) -> None:
    """One that rotates is made anew by a look; one that never does, or that a person has, is not."""
    run = Command(site)
    vps = machine(site)
    with vps.agent:
        before = vps.listed()
        with timed("one secret deleted, until the application has another one"):
            delete(site, before["API_KEY"])
            run.look_at_all()
            after = vps.listed()
            vps.until_served(after)
        assert {name for name in NAMES if after[name] != before[name]} == {"API_KEY"}

        with timed("a key of old data and a person's value deleted, until both are served again"):
            for name in ("ENCRYPTION_KEY", "SMTP_PASSWORD"):
                delete(site, after[name])
            for _ in range(2):  # also the second look knows that there was one
                run.local("look", FIRST)
                assert vps.listed().keys() == NAMES - {"ENCRYPTION_KEY", "SMTP_PASSWORD"}
            run("set", FIRST, "SMTP_PASSWORD", given=CANARY)
            run("rotate", FIRST, "ENCRYPTION_KEY", "--reason", "its data is gone", "--no-wait")
            until(lambda: vps.listed().keys() == NAMES)
            vps.until_served(vps.listed())


@pytest.mark.timeout(900)
def test_a_deleted_container(site: Site) -> None:
    """It is made again with the same versions; the VPS must be told, since the new one has another UUID."""
    run = Command(site)
    vps = machine(site)
    with vps.agent:
        before, former = vps.listed(), vps.container
        with timed("the container deleted, until it is there again"):
            barbican(site).delete_container(Version(former))
            run.local("look", FIRST)
            assert vps.listed() == before
        # it asks for the former one: served on for revocation_grace, then dropped
        vps.agent.until(lambda: not vps.served())
        with timed("the VPS told, until its application is served"):
            vps.take_over()
            vps.until_served(before)
        assert vps.container != former


@pytest.mark.timeout(900)
def test_a_lost_database(serve: Serve, keys: tuple[Path, str]) -> None:
    """From a backup, and without one from Barbican: nothing is made anew, nothing is rotated."""
    site = serve.site
    run = Command(site)
    vps = machine(site)
    with vps.agent:
        before = vps.listed()
        said = run.local("backup", "run")
        assert "written" in said
        assert "proved" in run.local("backup", "prove")
        assert "no backup is due" in run.local("backup", "run", "--if-due")
        public = said.partition("signed by ")[2].partition(":")[0]
        (backup,) = (site.folder / "backups").iterdir()
        restore = ("restore", str(backup), "--identity", str(keys[0]))
        signed = f"--signed-by={public}"  # a key may begin with a dash

        assert "1 were there" in run.local(*restore, signed)  # what the database knows is not replaced
        assert "forged" in run.local(*restore, f"--signed-by={'A' * 43}", status=1)
        with timed("the database lost, restored from a backup, until the VPS was looked at"):
            serve.lose_database()
            assert "1 VPSs are wanted again" in run.local(*restore, signed)
            serve.start()
            run.look_at_all()
        assert vps.listed() == before
        assert vps.shown()["vps"]["state"] == "serving"

        with timed("the database lost, adopted from Barbican, until the VPS was looked at"):
            serve.lose_database()
            run.local("blueprint", "apply")
            assert "labels" in run.local("adopt", "--all", "--blueprint", "backend")
            serve.start()
            run.look_at_all()
        assert vps.listed() == before
        until(lambda: vps.shown()["vps"]["state"] == "serving")
        assert vps.served() == before
        assert "no container" in run.local("adopt", "vps-9", "--blueprint", "backend", status=1)


@pytest.mark.timeout(1800)
def test_barbican_lost_everything(site: Site, own_cloud: Cloud) -> None:
    """Five VPSs: all that rotates is made anew, the rest is asked for; the agent drops, and serves again."""
    run = Command(site)
    vps = machine(site)
    others = [f"vps-drill-{number:03}" for number in range(2, FLEET + 1)]
    for other in others:
        run("vps", "add", other, "--blueprint", "backend")
    with vps.agent:
        before = vps.served()
        began = time.monotonic()
        own_cloud.testbed.wipe("barbican")
        run.look_at_all()
        took = time.monotonic() - began
        pace = took * 100 / FLEET / 60
        say(f"Barbican lost everything, {FLEET} VPSs: {took:.1f} s; 100 at this pace: {pace:.1f} min")
        assert took * 100 / FLEET < 3600
        with timed("the first VPS: a person's part, and its agent told"):
            run("set", FIRST, "SMTP_PASSWORD", given=CANARY)
            run("rotate", FIRST, "ENCRYPTION_KEY", "--reason", "all data is lost", "--no-wait")
            until(lambda: vps.listed().keys() == NAMES)
            vps.agent.until(lambda: not vps.served())  # the former container is gone: dropped after the grace
            vps.take_over()
            vps.until_served(vps.listed())
        assert all(vps.served()[name] != before[name] for name in NAMES)
        assert CANARY not in site.logs()


@pytest.mark.timeout(900)
def test_a_compromised_vps(site: Site) -> None:
    """Shut out; given back; every value that can be made is another one, and the former ones are deleted."""
    run = Command(site)
    vps = machine(site)
    with vps.agent:
        before = vps.listed()
        with timed("revoked, until its agent has dropped everything (a grace of 3 s)"):
            run("vps", "revoke", FIRST, "--reason", "drill")
            vps.agent.until(lambda: not vps.served())
        with timed("access given back, all made anew, until the application has it"):
            run("vps", "restore-access", FIRST, "--reason", "drill")
            run("emergency", FIRST, "--reason", "drill", "--no-wait")
            made = NAMES - {"ENCRYPTION_KEY", "SMTP_PASSWORD"}
            until(lambda: all(vps.listed()[name] != before[name] for name in made))
            vps.until_served(vps.listed())
        for name in made:
            assert Version(before[name]) not in {
                one.version for one in barbican(site).made(FIRST, SecretName(name))
            }


@pytest.mark.timeout(900)
@pytest.mark.nightly
def test_a_machine_in_other_hands(sealing_site: Site) -> None:
    """Shut out at once; nothing is made for it; another machine takes its place, and opens other values."""
    site, run = sealing_site, Command(sealing_site)
    run("vps", "add", FIRST, "--blueprint", "backend", "--no-wait")
    until(lambda: bool(vps_of(run)["container"]))
    run("vps", "claim", FIRST, "--json", "--output", str(site.folder / "claim"))
    former = Joined(site, "former", site.folder / "claim")
    made = NAMES - {"SMTP_PASSWORD"}
    until(lambda: former.opened().keys() == made)
    run("set", FIRST, "SMTP_PASSWORD", given=CANARY)
    before, versions = former.opened(), former.listed()
    assert before.keys() == NAMES
    with timed("its machine in other hands: ordered, until it is shut out"):
        said = run("emergency", FIRST, "--new-identity", "--reason", "drill")
    assert "revoke vps-drill-001: done" in said
    assert former.is_out()
    again = f"vps claim {FIRST} --again --output FILE"
    assert again in said
    assert f"vps-secrets-deploy set {FIRST} SMTP_PASSWORD" in said
    rotating = made - {"ENCRYPTION_KEY"}

    def in_barbican() -> set[str]:
        return {one.version for name in rotating for one in barbican(site).made(FIRST, SecretName(name))}

    run("look", FIRST, "--config", str(site.path))
    assert in_barbican() == {versions[name] for name in rotating}, "made for whom it is shut out from"
    with timed("its new identity handed out, until the new machine opens what was made for it"):
        run(*again.replace("FILE", str(site.folder / "again")).split(), "--json")
        assert former.is_out()
        until(lambda: vps_of(run)["state"] == "joining")
        run("look", FIRST, "--config", str(site.path))
        assert in_barbican() == {versions[name] for name in rotating}, "made for the former machine's key"
        anew = Joined(site, "anew", site.folder / "again")
        until(lambda: anew.opened().keys() == rotating and not anew.doubled())
    after = anew.opened()
    assert all(after[name] != before[name] for name in rotating)
    listed = anew.listed()
    until(lambda: in_barbican() == {listed[name] for name in rotating})
    kept = {"ENCRYPTION_KEY", "SMTP_PASSWORD"}  # sealed to the former machine's key: a person decides
    assert {name: listed[name] for name in kept} == {name: versions[name] for name in kept}
    run("set", FIRST, "SMTP_PASSWORD", given=CANARY)
    run("rotate", FIRST, "ENCRYPTION_KEY", "--reason", "drill", "--no-wait")
    until(lambda: anew.opened().keys() == NAMES)
    assert CANARY not in site.logs()


@pytest.mark.timeout(900)
@pytest.mark.nightly
def test_the_drill_of_the_command(site: Site) -> None:
    """It plays on a VPS of its own and leaves nothing; a VPS that is there is not touched."""
    run = Command(site)
    assert "no blueprint drill" in run.local("drill", status=1)
    assert "not fit" in run.local("drill", "--blueprint", "backend", status=1)
    (site.folder / "blueprints" / "drill.toml").write_text('[A]\nkind = "random"\nrotate = "30d"\n')
    run.local("blueprint", "apply")
    took = json.loads(run.local("drill", "--json"))["seconds"]
    say(f"the command's own: {took}")
    assert len(took) == 4
    assert json.loads(run("vps", "list", "--json")) == []
    run("vps", "add", "vps-drill", "--blueprint", "drill")
    assert "already" in run.local("drill", status=1)
    assert json.loads(run("vps", "list", "--json"))[0]["id"] == "vps-drill"
    assert "no VPS" in run.local("look", "vps-9", status=1)
