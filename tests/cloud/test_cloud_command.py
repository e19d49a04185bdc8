"""``vps-secrets-deploy cloud``, from an empty cloud to a verified one, with the real command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from keystoneauth1.identity import v3
from keystoneauth1.session import Session

from deployer.cloud import own_login
from deployer.cloud.errors import CloudError
from deployer.config import reader
from deployer.registrar import opening as registrar
from deployer.worker import opening

if TYPE_CHECKING:
    from lab.testbed.cloud import Cloud

DAY_S = 86400.0
ROOT = Path(__file__).parents[2]
FILE = """
[domain]
name = "command-vps"
[secrets]
project = "command-secrets"
[runtime]
project = "command-runtime"
[deployment_service]
user = "command-deployer"
[registrar]
user = "command-accounts"
"""


def run(*words: str, token: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command; the administrator's token comes on standard input."""
    command = [sys.executable, "-m", "deployer.cli", "cloud", *words]
    return subprocess.run(
        command, input=token, capture_output=True, text=True, cwd=ROOT, env=os.environ, check=False
    )


def test_from_an_empty_cloud_to_a_verified_one(either: Cloud, tmp_path: Path) -> None:
    """Plan says what is missing, apply makes it, each credential comes in a file, verify passes with them."""
    (tmp_path / "cloud.toml").write_text(FILE)
    config = tmp_path / "deployer.toml"
    worker = f'[worker]\ncredential_file = "{tmp_path}/barbican"\n'
    of_registrar = (
        f'[registrar]\nusername = "command-accounts"\ndomain = "command-vps"\n'
        f'credential_file = "{tmp_path}/registrar"\n'
    )
    head = (
        f'[cloud]\nfile = "{tmp_path}/cloud.toml"\n[keystone]\nauth_url = "{either.auth_url}"\n{of_registrar}'
    )
    config.write_text(head + worker)
    token = str(either.accounts._session.get_token())
    always = ("--config", str(config))
    admin = (*always, "--admin-token", "-")
    planned = run("plan", *admin, "--json", token=token)
    assert planned.returncode == 1, planned.stderr
    changes = json.loads(planned.stdout)["changes"]
    assert "make the domain command-vps" in changes
    applied = run("apply", *admin, "--json", token=token)
    assert (applied.returncode, json.loads(applied.stdout)["changes"]) == (0, changes), applied.stderr
    assert run("plan", *admin, token=token).stdout == "the cloud is as cloud.toml says\n"
    said = ""
    for account, name in (("deployment-service", "barbican"), ("registrar", "registrar")):
        made = run("credential", account, *admin, "--output", str(tmp_path / name), token=token)
        assert made.returncode == 0, made.stderr
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
        said += made.stdout + made.stderr
        assert ((tmp_path / name).read_text() in said) is False
        again = run("credential", account, *admin, "--output", str(tmp_path / name), token=token)
        assert (again.returncode, again.stderr.endswith("File exists; nothing was made\n")) == (1, True)
    credential_id = said.partition("its id is ")[2].partition(":")[0]
    config.write_text(head + worker + f'application_credential_id = "{credential_id}"\n')
    worker += f'application_credential_id = "{credential_id}"\n'
    verified = run("verify", *admin, "--json", token=token)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert json.loads(verified.stdout)["leftOut"] == []
    daily = run("verify", *always)
    assert daily.returncode == 0, daily.stdout + daily.stderr
    assert "not looked at: who has a role in the secrets project" in daily.stdout
    assert daily.stdout.endswith("every promise is kept\n")
    _renewed(either, tmp_path, config, head, worker)
    exported = run("export", *always)
    assert '"openstack_identity_project_v3" "command-vps"' in exported.stdout
    refused = run("apply", *always)
    assert refused.returncode == 1
    assert "needs an administrator's token" in refused.stderr


def _renewed(cloud: Cloud, folder: Path, config: Path, head: str, worker: str) -> None:
    """The runbook's renewal: the next one beside the former, then the former is ended, and no other."""
    token = str(cloud.accounts._session.get_token())
    admin = ("--config", str(config), "--admin-token", "-")
    loaded = reader.load(config)
    assert loaded.keystone is not None
    url = loaded.keystone.auth_url
    former, former_id = opening.session_of(loaded, loaded.keystone), loaded.worker.application_credential_id
    ends = own_login.application_credential_ends(former, url, former_id)
    assert ends is not None
    assert 364.9 * DAY_S < ends - time.time() < 365 * DAY_S
    dates = own_login.password_dates(registrar.manager(loaded), url)
    assert dates.ends is None
    assert dates.since is not None
    assert 0 <= time.time() - dates.since < DAY_S
    made = run(
        *("credential", "deployment-service", "--expires", "90d", *admin),
        *("--output", str(folder / "next")),
        token=token,
    )
    assert made.returncode == 0, made.stderr
    next_id = made.stdout.partition("its id is ")[2].partition(":")[0]
    assert own_login.application_credential_ends(former, url, former_id) == ends  # both are in force
    mistaken = config.read_text()
    config.write_text(head + worker.replace(former_id, "0" * 32))
    refused = run("credential", "deployment-service", "--end-former", *admin, token=token)
    assert (refused.returncode, "it has not all that deployer.toml names" in refused.stderr) == (1, True)
    config.write_text(mistaken.replace(former_id, next_id).replace(f"{folder}/barbican", f"{folder}/next"))
    ended = run("credential", "deployment-service", "--end-former", *admin, token=token)
    assert ended.returncode == 0, ended.stderr
    assert "1 were deleted" in ended.stdout
    loaded = reader.load(config)
    assert loaded.keystone is not None
    renewed = opening.session_of(loaded, loaded.keystone)
    ends = own_login.application_credential_ends(renewed, url, next_id)
    assert ends is not None
    assert ends - time.time() < 90 * DAY_S
    plugin = v3.ApplicationCredential(
        auth_url=url,
        application_credential_id=former_id,
        application_credential_secret=(folder / "barbican").read_text(),
    )
    with pytest.raises(CloudError, match="Keystone refused the login"):
        own_login.application_credential_ends(Session(auth=plugin), url, former_id)
