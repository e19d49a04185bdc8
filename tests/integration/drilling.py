"""A whole deployer with VPSs whose agents run, for the drills: what a person types, and what is read then."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import tomllib
from typing import TYPE_CHECKING, Any, Final

import requests
from keystoneauth1.exceptions import HttpError
from keystoneauth1.identity import v3
from keystoneauth1.session import Session

from agent.identity import credential_file
from common import sealing, sealing_key
from common.acknowledgement import consumer_of, served_digest
from common.names import SecretName, Version
from common.sealed import SealError
from deployer.cloud.accounts import ACKNOWLEDGING_RULES
from deployer.cloud.barbican import Barbican
from deployer.cloud.errors import CloudError
from lab.testbed import join
from lab.testbed.running import ROOT, Agent

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from lab.testbed.site import Site

PROGRAM: Final = (sys.executable, "-m", "deployer.cli")
WAIT_S: Final = 240.0
GRACE_S: Final = 3
OK: Final = 200


def say(words: str) -> None:
    """Tell what was measured, where somebody looks (pytest -s)."""
    sys.stdout.write(f"\ndrill: {words}\n")


class Command:
    """``vps-secrets-deploy`` at a site."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def __call__(self, *arguments: str, given: str = "", status: int = 0) -> str:
        """Run a command; return what it prints."""
        environment = os.environ | {"VPS_SECRETS_DEPLOY_SOCKET": str(self._site.folder / "api.sock")}
        ran = subprocess.run(
            [*PROGRAM, *arguments],
            cwd=ROOT,
            env=environment,
            input=given,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert ran.returncode == status, ran.stdout + ran.stderr + self._site.logs()
        return ran.stdout + ran.stderr

    def local(self, *arguments: str, status: int = 0) -> str:
        """Run one of the commands that work on the deployer's own machine: they read deployer.toml."""
        return self(*arguments, "--config", str(self._site.path), status=status)

    def look_at_all(self) -> None:
        """Look at all until nothing fails: a busy Barbican on sqlite answers 500 now and then."""
        began = time.monotonic()
        while True:
            ran = subprocess.run(
                [*PROGRAM, "look", "--all", "--timeout", "10m", "--json", "--config", str(self._site.path)],
                cwd=ROOT,
                capture_output=True,
                check=False,
            )
            if not json.loads(ran.stdout)["failed"]:
                return
            assert time.monotonic() - began < 600, ran.stdout


class Serve:
    """``vps-secrets-deploy serve`` at a site: api, worker and registrar."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.start()

    def start(self) -> None:
        """Start it, and wait until the API listens."""
        self._process = self.site.start("deployer.cli", self.site.folder / "api.sock", "serve")

    def stop(self) -> None:
        """End it; its socket is gone then."""
        self._process.terminate()
        self._process.wait(WAIT_S)
        assert not (self.site.folder / "api.sock").exists()

    def lose_database(self) -> None:
        """End it, and delete its database."""
        self.stop()
        for path in self.site.folder.glob("deployer.db*"):
            path.unlink()


class Machine:
    """A VPS that has claimed its identity and runs the real agent."""

    def __init__(self, site: Site, run: Command, vps_id: str) -> None:
        self.vps_id = vps_id
        self._site = site
        self._run = run
        data = site.folder / f"{vps_id}.json"
        run("vps", "claim", vps_id, "--json", "--output", str(data))
        claim = json.loads(data.read_text())
        data.unlink()
        self._joined = join.join(
            site.cloud.auth_url,
            claim["userId"],
            claim["oneTimePassword"],
            site.tenant.runtime_id,
            self._until_unlocked,
            rules=ACKNOWLEDGING_RULES,
        )
        self.container = claim["container"]
        self.private = b""
        """Its key, where its secrets are sealed."""
        if claim["sealing"] == "required":
            self._announce()
        self.agent = Agent(self._configuration)

    def _announce(self) -> None:
        self.private, public = sealing.new_key()
        session = self._site.cloud.accounts.log_in_with(self._joined.credential)
        url = f"{self._site.cloud.testbed.places.barbican_url}/v1/containers/{self.container}/consumers"
        session.post(url, json=sealing_key.announcement_of(public), log=False)

    def shown(self) -> dict[str, Any]:
        """Return what the API says of it."""
        return dict(json.loads(self._run("vps", "show", self.vps_id, "--json")))

    def listed(self) -> dict[str, str]:
        """Return the versions that its container lists, as Barbican says."""
        container = self.shown()["vps"]["container"]
        if not container:
            return {}
        found = barbican(self._site).container(self.vps_id, Version(container))
        return {entry.name: entry.version for entry in sorted(found.entries, key=lambda entry: entry.k)}

    def served(self) -> dict[str, str]:
        """Return the versions that its application gets."""
        answer = self.agent.get("/v1/secrets")
        if answer.status != 200:
            return {}
        return {one["name"]: one["version"] for one in answer.json["secrets"]}

    def until_served(self, wanted: Mapping[str, str]) -> None:
        """Wait until the application gets these."""
        self.agent.until(lambda: self.served() == wanted, WAIT_S)

    def take_over(self) -> None:
        """Do what configuration management does when the container is another one: write it, restart."""
        self.container = self.shown()["vps"]["container"]
        self.agent.stop()
        self.agent.start()

    def _until_unlocked(self) -> None:
        until(lambda: self.shown()["vps"]["state"] in {"listed", "serving", "waiting-for-key"})

    def _configuration(self, directory: Path) -> str:
        given = (self._site.cloud, self.vps_id, self.container, self._joined.credential)
        written = join.agent_configuration(*given, directory)
        grant = '[[grant]]\nuser = "root"\nsecrets = ["*"]\n'
        return f'{written}{self._of_its_key(directory)}[staleness]\nrevocation_grace = "{GRACE_S}s"\n{grant}'

    def _of_its_key(self, directory: Path) -> str:
        if not self.private:
            return ""
        key = join.private_file(directory / "sealing-key", sealing_key.encoded(self.private))
        return f'require_sealed = true\nsealing_key_file = "{key}"\n'


class Joined:
    """A machine that has joined by ``vps-secrets join``, as far as it can read: no agent runs there.

    ``claim`` is what ``vps claim --json`` wrote. It stays as it is when another machine takes its place.
    """

    def __init__(self, site: Site, name: str, claim: Path) -> None:
        self._etc = site.folder / name / "etc"
        self._etc.parent.mkdir()
        told = json.loads(claim.read_text())
        self._vps_id, self._at = told["vps"], f"{site.cloud.testbed.places.barbican_url}/v1"
        self._container = told["container"]
        command = [sys.executable, "-m", "lab.testbed.joining", str(self._etc.parent), "0", "--no-start"]
        ran = subprocess.run(
            [*command, "--claim", str(claim)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr + site.logs()
        configuration = tomllib.loads((self._etc / "agent.toml").read_text())
        self._login = v3.ApplicationCredential(
            auth_url=site.cloud.auth_url,
            application_credential_id=configuration["keystone"]["application_credential_id"],
            application_credential_secret=self._held(credential_file.KEYSTONE_CREDENTIAL),
        )
        held = sealing_key.parse(self._held(sealing_key.CREDENTIAL).strip())
        assert held is not None
        self._private = held.key
        self._session = Session(auth=self._login, timeout=WAIT_S)
        self._token = str(self._session.get_token())

    def _held(self, name: str) -> str:
        return (credential_file.read(name, self._etc) or b"").decode()

    def _get(self, path: str, accept: str = "application/json") -> requests.Response:
        """Ask with the token that it has, whatever has become of its user since."""
        headers = {"X-Auth-Token": self._token, "Accept": accept}
        return requests.get(f"{self._at}{path}", headers=headers, timeout=WAIT_S)

    def entries(self) -> list[tuple[str, str]]:
        """Return the entries of its container, with their versions, the one that an agent takes last."""
        answer = self._get(f"/containers/{self._container}")
        if answer.status_code != OK:  # nobody reads it while it is filled for the first time
            return []
        found = [(one["name"].partition("/")[2], one["secret_ref"]) for one in answer.json()["secret_refs"]]
        return sorted((name, ref.rpartition("/")[2]) for name, ref in found)

    def doubled(self) -> bool:
        """Tell whether a name stands there twice: a rotation is under way."""
        return len(self.listed()) != len(self.entries())

    def listed(self) -> dict[str, str]:
        """Return the version of each name."""
        return {name.partition("~")[0]: version for name, version in self.entries()}

    def opened(self) -> dict[str, bytes]:
        """Return what it can open of what is listed."""
        found = {}
        for name, version in self.listed().items():
            answer = self._get(f"/secrets/{version}/payload", "application/octet-stream")
            with contextlib.suppress(SealError):
                found[name] = bytes(
                    sealing.unseal(answer.content, (self._private,), self._vps_id, SecretName(name))[0]
                )
        return found

    def reads(self, version: str) -> bool:
        """Tell whether it gets a value that it had, by the token that it has."""
        return self._get(f"/secrets/{version}/payload", "application/octet-stream").status_code == OK

    def says_that_it_serves(self) -> None:
        """Register what is listed as served, as its agent does."""
        consumer = consumer_of(
            served_digest({SecretName(name): Version(at) for name, at in self.listed().items()})
        )
        headers = {"X-Auth-Token": self._token}
        url = f"{self._at}/containers/{self._container}/consumers"
        requests.post(url, json=dict(consumer), headers=headers, timeout=WAIT_S).raise_for_status()

    def is_out(self) -> bool:
        """Tell whether it can do nothing any more: read with the token that it has, or log in."""
        read = self._get(f"/containers/{self._container}").status_code
        self._login.invalidate()
        try:
            self._session.get_token()
        except HttpError:  # its user is disabled (401), or deleted (404)
            return read in {401, 403}
        return False


def barbican(site: Site) -> Barbican:
    """Return Barbican as the deployment service has it; a mistaken person deletes with it."""
    return Barbican(site.cloud.deployer_session, site.cloud.testbed.places.barbican_url)


def delete(site: Site, version: str) -> None:
    """Delete a secret as a person would, again where Barbican is busy with its agent (sqlite: 500)."""

    def gone() -> bool:
        try:
            barbican(site).delete_secret(Version(version))
        except CloudError as error:
            if not error.retriable:
                raise
            return False
        return True

    until(gone)


def until(condition: Callable[[], bool], seconds: float = WAIT_S, told: Callable[[], str] = str) -> None:
    """Wait for a condition; fail with what is ``told``, such as the logs of a site."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited in vain\n{told()}"
        time.sleep(0.1)
