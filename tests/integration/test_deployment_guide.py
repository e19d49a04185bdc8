"""docs/deployment.md and docs/rollout.md, word for word, as a person types them: real cloud, real agent."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from typing import TYPE_CHECKING, Final

import pytest

from agent.identity import credential_file
from common import sealing_key
from lab.testbed.running import ROOT, Agent
from lab.testbed.site import Site
from lab.testbed.testbed import REGION
from tests.integration.drilling import Serve

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lab.testbed.cloud import Cloud

CANARY: Final = "canary-41d7-guide"
SHELL: Final = """
set -eu
vps-secrets-deploy() {
  case "$1" in
    blueprint|backup|restore|adopt|look|drill|cloud) "$PYTHON" -m deployer.cli "$@" --config "$CONFIG" ;;
    *) "$PYTHON" -m deployer.cli "$@" ;;
  esac
}
"""
JOIN: Final = """#!/bin/sh
# the package's vps-secrets join, where systemd is not there
shift
exec "$PYTHON" -m lab.testbed.joining "$PWD/machine" 0 "$@" --no-start
"""


class Person:
    """Types the commands of a section, in a folder of the deployer's machine."""

    def __init__(self, site: Site) -> None:
        self.folder = site.folder
        self._path = site.path
        self.logs = site.logs
        (self.folder / "bin").mkdir()
        (self.folder / "machine").mkdir()
        command = self.folder / "bin" / "vps-secrets"
        command.write_text(JOIN)
        command.chmod(0o755)
        digests = self.folder / "check-digests.py"
        text = (ROOT / "docs/examples/check-digests.py").read_text()
        digests.write_text(text.replace("/run/vps-secrets/app.sock", str(self.app)))
        digests.chmod(0o755)

    @property
    def app(self) -> Path:
        """Where the agent's app.sock is found."""
        return self.folder / "app.sock"

    def types(self, command: str) -> str:
        """Run one command; return what it says."""
        environment = os.environ | {
            "PYTHON": sys.executable,
            "PYTHONPATH": str(ROOT),
            "CONFIG": str(self._path),
            "VPS_SECRETS_DEPLOY_SOCKET": str(self.folder / "api.sock"),
            "PATH": f"{self.folder}/bin:{os.environ['PATH']}",
        }
        ran = subprocess.run(
            ["/bin/bash", "-c", SHELL + command],
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=400,
        )
        assert ran.returncode == 0, f"{command}\n{ran.stdout}{ran.stderr}" + self.logs()
        assert CANARY not in ran.stdout + ran.stderr
        return ran.stdout

    def boots(self, user_data: str) -> None:
        """Do what cloud-init does on the new machine."""
        first, _, rest = (self.folder / user_data).read_text().partition("\n")
        assert first == "#cloud-config"
        (file,) = json.loads(rest)["write_files"]
        (self.folder / "claim.json").write_text(file["content"])
        self.types("vps-secrets join --claim claim.json")
        assert not (self.folder / "claim.json").exists()

    def agent(self, cloud: Cloud) -> Agent:
        """Return the agent that join would have started."""
        etc = self.folder / "machine" / "etc"
        written = tomllib.loads((etc / "agent.toml").read_text())
        assert written["fetch"]["acknowledge"] is True
        secret = credential_file.read(credential_file.KEYSTONE_CREDENTIAL, etc)
        sealing = credential_file.read(sealing_key.CREDENTIAL, etc)
        assert secret is not None
        assert sealing is not None

        def configuration(directory: Path) -> str:
            credential = directory / "keystone-credential"
            credential.touch(0o600)
            credential.write_bytes(secret)
            key = directory / "sealing-key"
            key.touch(0o600)
            key.write_bytes(sealing)
            self.app.unlink(missing_ok=True)
            self.app.symlink_to(directory / "app.sock")
            base = cloud.testbed.places.barbican_url
            return (
                f'vps_id = "{written["vps_id"]}"\n'
                f'container = "{base}/v1/containers/{written["container"]}"\n'
                f'[keystone]\nauth_url = "{written["keystone"]["auth_url"]}"\nregion = "{REGION}"\n'
                f'application_credential_id = "{written["keystone"]["application_credential_id"]}"\n'
                f'credential_file = "{credential}"\n'
                f'[app]\nsocket = "{directory}/app.sock"\n[control]\nsocket = "{directory}/control.sock"\n'
                f'[fetch]\nacknowledge = true\nrequire_sealed = true\nsealing_key_file = "{key}"\n'
                '[rotation]\npoll_interval = "1s"\nfleet_size = 1\n'
                '[[grant]]\nuser = "root"\nsecrets = ["*"]\n'
            )

        return Agent(configuration)


def commands(page: str, section: str) -> list[str]:
    """Return the commands of a section, continued lines joined."""
    text = (ROOT / "docs" / page).read_text().partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return [line for line in re.findall(r"^    (\S.*)$", text, re.MULTILINE) if not line.startswith("ssh ")]


@pytest.fixture
def person(cloud: Cloud, tmp_path: Path) -> Iterator[Person]:
    """A person at a deployer that runs, with the page's blueprint written."""
    with Site(cloud, tmp_path, worker='sweep = "1s"\n', registrar=False, sealing="required") as site:
        Serve(site)
        text = (ROOT / "docs/deployment.md").read_text()
        blueprint = (
            text.partition("`blueprints/backend.toml`:")[2].partition("```toml\n")[2].partition("```")[0]
        )
        (tmp_path / "blueprints/backend.toml").write_text(blueprint)
        yield Person(site)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_first_vps_and_every_day(person: Person, cloud: Cloud) -> None:
    """Each command of both sections, in their order."""
    (person.folder / "smtp-password").write_text(CANARY + "\n")
    first, every_day = commands("deployment.md", "The first VPS"), commands("deployment.md", "Every day")
    assert (len(first), len(every_day)) == (8, 8)
    claimed = next(number for number, line in enumerate(first) if " claim " in line)
    for line in first[: claimed + 1]:
        person.types(line.replace("recruitiq", "root"))
    person.boots("user-data")
    with person.agent(cloud) as agent:
        agent.start().until_ready()
        said = [person.types(line) for line in first[claimed + 1 :]]
        assert "SMTP_PASSWORD" in said[0]
        agent.until(lambda: agent.get("/v1/secrets/SMTP_PASSWORD").status == 200)
        for line in every_day:
            assert "done" in person.types(line), line
    assert json.loads(person.types("vps-secrets-deploy vps list --json")) == []


@pytest.mark.timeout(900)
def test_from_an_env_file(person: Person, cloud: Cloud) -> None:
    """The values are those of the file, by digest; another value is found out."""
    (person.folder / "old.env").write_text(f'# old\nexport JWT_SECRET="{CANARY}"\nSMTP_PASSWORD=two # b\n')
    lines = commands("rollout.md", "From `.env`")
    assert "check-digests.py" in lines[-1]
    for line in lines[:-2]:
        person.types(line.replace("recruitiq", "root"))
    person.boots("old-user-data")
    person.types(lines[-2])
    with person.agent(cloud) as agent:
        agent.start().until_ready()
        agent.until(lambda: agent.get("/v1/secrets/SMTP_PASSWORD").status == 200)
        assert person.types(lines[-1]).splitlines() == ["JWT_SECRET: the same", "SMTP_PASSWORD: the same"]
        digests = person.folder / "digests.json"
        changed = json.loads(digests.read_text())
        changed["digests"]["JWT_SECRET"] = "0" * 64
        changed["digests"]["ABSENT"] = "0" * 64
        digests.write_text(json.dumps(changed))
        told = person.types(f"{lines[-1]} || true").splitlines()
        assert told == ["ABSENT: not served (HTTP 404)", "JWT_SECRET: DIFFERS", "SMTP_PASSWORD: the same"]
    person.types('vps-secrets-deploy vps retire vps-old-001 --reason "back" --confirm vps-old-001')
