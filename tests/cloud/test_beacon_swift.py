"""The beacon in a real Swift: with the runtime account's own token, and with a temporary URL."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from agent.core.errors import Step
from deployer.cloud.accounts import RUNTIME_PROJECT, RUNTIME_RULES
from deployer.cloud.beacon import Beacons
from deployer.cloud.errors import CloudError
from lab.testbed.cloud import Account, Cloud
from lab.testbed.fakes.beacon import BeaconServer
from lab.testbed.fakes.fetching import Fetch
from lab.testbed.fakes.watching import Watcher, look
from lab.testbed.swift import Swift

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from deployer.cloud.secrets import Vps

FLEET = "fleet"


@dataclass(frozen=True)
class Store:
    """A cloud with an object store, in which the deployment has touched the beacon of its fleet."""

    cloud: Cloud
    swift: Swift
    beacons: Beacons

    @property
    def url(self) -> str:
        """The beacon's address."""
        return f"{self.beacons.url}/{FLEET}"

    def vps(self, *, rule: bool) -> Vps:
        """Make a VPS whose credential may read the beacon, or may not."""
        vps = self.cloud.vps(f"vps-{secrets.token_hex(4)}", {})
        user = self.cloud.runtime[vps.vps_id].user
        objects = [("GET", urlsplit(self.url).path)] if rule else []
        credential = self.cloud.accounts.application_credential(
            user, self.cloud.session_of(user), "agent", RUNTIME_RULES, objects=objects
        )
        self.cloud.runtime[vps.vps_id] = Account(user, credential)
        return vps

    def config(self, vps: Vps, directory: Path, url: str = "", auth: str = "keystone") -> Path:
        """Write the agent's configuration."""
        path = directory / "agent.toml"
        extra = f'[beacon]\nurl = "{url or self.url}"\nauth = "{auth}"\n'
        path.write_text(self.cloud.configuration(vps, directory, extra))
        return path


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    """One Swift for all tests here, in a cloud of its own: its catalog has an object store."""
    with Cloud() as cloud, Swift(cloud) as swift:
        deployer = cloud.accounts.deployer()
        url = f"{swift.url(deployer.project_id)}/vps-beacons"
        beacons = Beacons(cloud.session_of(deployer), url)
        beacons.create(cloud.accounts.project(RUNTIME_PROJECT))
        beacons.touch(FLEET)
        yield Store(cloud, swift, beacons)


def test_with_the_accounts_own_token(store: Store, tmp_path: Path) -> None:
    """By a login where there is no token; each touch is seen; nothing of the token is in the journal."""
    vps = store.vps(rule=True)
    config = store.config(vps, tmp_path)
    first = look(config)
    assert first.seen.startswith("etag:")
    assert first.sight.logins == 1
    with Watcher(config, first.seen) as watcher:
        store.beacons.touch(FLEET)
        ended = watcher.end()
    assert ended.seen != first.seen
    assert ended.sight.logins == 1
    assert look(config, ended.seen).seen == ended.seen
    assert store.cloud.runtime[vps.vps_id].credential.secret not in ended.log


def test_with_the_token_of_the_last_cycle(store: Store, tmp_path: Path) -> None:
    """No login while it is good; one when it is refused."""
    vps = store.vps(rule=True)
    config = store.config(vps, tmp_path)
    state = Fetch(config, vps.container_ref.rpartition("/")[2], vps.vps_id)().reply.token_state
    assert look(config, token_state=state).sight.logins == 0
    kept = json.loads(state)
    inner = json.loads(kept["state"])
    token, inner["auth_token"] = inner["auth_token"], "gone" + inner["auth_token"]
    state = json.dumps(kept | {"state": json.dumps(inner)}).encode()
    again = look(config, token_state=state)
    assert again.seen
    assert again.sight.logins == 1
    assert token not in again.log


def test_without_an_access_rule_it_is_refused(store: Store, tmp_path: Path) -> None:
    """The rules of the credential are for Barbican alone, until one for the beacon's path is added."""
    failure = look(store.config(store.vps(rule=False), tmp_path)).failure
    assert (failure.step, failure.status) == (Step.BEACON, 401)
    assert "docs/provisioning.md" in failure.advice


def test_the_rule_is_for_this_path_alone(store: Store, tmp_path: Path) -> None:
    """The same account can't read another object, nor touch the beacon."""
    vps = store.vps(rule=True)
    store.beacons.touch("other")
    assert look(store.config(vps, tmp_path, f"{store.beacons.url}/other")).failure.status == 401
    account = store.cloud.runtime[vps.vps_id]
    runtime = store.cloud.accounts.log_in_with(account.credential)
    with pytest.raises(CloudError, match="touch the beacon"):
        Beacons(runtime, store.beacons.url).touch(FLEET)


def test_no_token_goes_to_another_server(store: Store, tmp_path: Path) -> None:
    """Only the catalog's object store gets one, whatever the configuration says."""
    with BeaconServer() as elsewhere:
        failure = look(store.config(store.vps(rule=True), tmp_path, elsewhere.url)).failure
    assert failure.step is Step.BEACON
    assert "no token is sent" in failure.advice
    assert elsewhere.asked == []


def test_keystone_away(store: Store, tmp_path: Path) -> None:
    """A login that can't be made is a failure with Keystone's step; so is a credential that is missing."""
    config = store.config(store.vps(rule=True), tmp_path)
    text = config.read_text()
    config.write_text(text.replace(store.cloud.auth_url, "http://127.0.0.1:1/v3"))
    assert look(config).failure.step is Step.CONNECTION
    config.write_text(text.replace("/keystone-credential", "/nowhere"))
    assert look(config).failure.step is Step.CREDENTIAL


def test_a_temporary_url(store: Store, tmp_path: Path) -> None:
    """No login at all; a forged signature and one that is over are refused; it is in no text."""
    url = store.beacons.temporary_url(FLEET, 3600)
    vps = store.vps(rule=False)
    config = store.config(vps, tmp_path, url, "none")
    first = look(config)
    assert first.sight.logins == 0
    with Watcher(config, first.seen) as watcher:
        store.beacons.touch(FLEET)
        assert watcher.end().seen != first.seen
    signature = url.partition("temp_url_sig=")[2].partition("&")[0]
    for wrong in (url.replace(signature, signature[::-1]), url[:-10] + "1700000000"):
        ended = look(store.config(vps, tmp_path, wrong, "none"))
        assert ended.failure.status == 401
        assert "signature" in ended.failure.advice
        assert signature not in str(ended.failure) + ended.log
    assert look(store.config(vps, tmp_path, store.url, "none")).failure.status == 401
