"""The registrar with a pool of users that a person made, on the real Keystone of both releases."""

from __future__ import annotations

import json
import secrets
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from keystoneauth1.session import Session

from common.untrusted_json import MalformedError
from deployer.cloud.identity import Identity
from deployer.registrar.errors import RefusalError
from deployer.registrar.pool import Pool, parse_members
from lab.testbed import tenant as sites
from lab.testbed.cloud import Cloud
from lab.testbed.join import join
from lab.testbed.tenant import Registrar, Tenant
from tests.cloud.test_registrar import ask, asked, until_unlocked

if TYPE_CHECKING:
    from pathlib import Path


def people_made(tenant: Tenant, number: int) -> list[dict[str, str]]:
    """Make users as a person does in a panel: with a password and a role, and no lock."""
    reader = tenant.identity.find("roles", "reader")
    assert reader is not None
    members = []
    for _ in range(number):
        password = secrets.token_urlsafe(16)
        name = f"pool-{secrets.token_hex(4)}"
        user = tenant.identity.make("users", name, domain_id="default", password=password)
        tenant.identity.grant(reader.id, user.id, "project", tenant.runtime_id)
        members.append({"userId": user.id, "oneTimePassword": password})
    return members


def pooled(tenant: Tenant, directory: Path, members: list[dict[str, str]]) -> Path:
    """Write the configuration of a registrar with this pool."""
    (directory / "pool.json").touch(0o600)
    (directory / "pool.json").write_text(json.dumps(members))
    return tenant.configuration(
        directory, f'pool_file = "{directory}/pool.json"\npool_state = "{directory}/state"\n'
    )


def test_one_that_was_set_up_by_hand_has_its_own(tenant: Tenant, tmp_path: Path) -> None:
    """A user that the pool says is for one VPS goes to that one, and to no other."""
    members = people_made(tenant, 2)
    members[0]["vps"] = "by-hand"
    with Registrar(pooled(tenant, tmp_path, members)) as registrar:
        assert asked(registrar, "POST", "/vps/a")["userId"] == members[1]["userId"]
        assert ask(registrar, "POST", "/vps/b")[0] == 409
        assert asked(registrar, "POST", "/vps/by-hand")["userId"] == members[0]["userId"]
        status, problem = ask(registrar, "POST", f"/vps/by-hand/claim?keep={members[0]['userId']}")
        assert (status, problem["type"]) == (409, "urn:vps-secrets:problem:pool")
        assert asked(registrar, "POST", "/vps/by-hand/claim")["userId"] == members[0]["userId"]
    for wrong in ("No Id", 1, "by-hand"):
        with pytest.raises(MalformedError):
            parse_members(json.dumps([members[0], {**members[1], "vps": wrong}]).encode())


def test_a_vps_joins_with_a_user_of_the_pool(tenant: Tenant, tmp_path: Path) -> None:
    """The same requests; each user once, also after its VPS has gone; the state holds no password."""
    members = people_made(tenant, 2)
    with Registrar(pooled(tenant, tmp_path, members)) as registrar:
        assert asked(registrar, "POST", "/vps/a") == asked(registrar, "POST", "/vps/a")
        told = asked(registrar, "POST", "/vps/a/claim")
        assert told["userId"] == members[0]["userId"]
        assert ask(registrar, "POST", "/vps/a/claim")[0] == 409
        assert asked(registrar, "POST", "/vps/a/claim?again=true") == told
        assert asked(registrar, "POST", "/vps/a/observe")["claimed"] is False
        vps = join(
            tenant.cloud.auth_url,
            told["userId"],
            told["oneTimePassword"],
            tenant.runtime_id,
            lambda: until_unlocked(registrar, "a"),
        )
        assert tenant.cloud.accounts.log_in_with(vps.credential).get_token()
        status, problem = ask(registrar, "POST", "/vps/a/claim?again=true")
        assert (status, problem["type"]) == (409, "urn:vps-secrets:problem:already-claimed")
        assert asked(registrar, "POST", "/vps/b")["userId"] == members[1]["userId"]
        status, problem = ask(registrar, "POST", "/vps/c")
        assert (status, problem["type"]) == (409, "urn:vps-secrets:problem:pool-empty")
        for _ in range(2):
            remains = asked(registrar, "DELETE", "/vps/a")["remains"]
        assert remains is False
        assert ask(registrar, "POST", "/vps/c")[0] == 409
        assert ask(registrar, "POST", "/vps/a/observe")[0] == 404
        written = (tmp_path / "state").read_text() + registrar.log.read_text()
    assert (members[0]["oneTimePassword"] in written) is False
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("word", ["disable", "enable"])
def test_what_a_pool_can_t_do_is_said(tenant: Tenant, tmp_path: Path, word: str) -> None:
    """And to whom it is left."""
    (member,) = people_made(tenant, 1)
    with Registrar(pooled(tenant, tmp_path, [member])) as registrar:
        asked(registrar, "POST", "/vps/a")
        said = asked(registrar, "POST", f"/vps/a/{word}")
        assert said["byHand"].startswith(f"{word} the user {member['userId']} of a in the cloud's panel")
        assert tenant.identity.user(member["userId"]).item.enabled


def test_a_password_that_has_to_be_changed_first(tmp_path: Path) -> None:
    """Where the cloud demands that, no login works before the claim: it must not look like one after it."""
    with Cloud() as cloud:
        tenant = sites.make(cloud)
        with (cloud.testbed.places.directory / "keystone.conf").open("a") as file:
            file.write("[security_compliance]\nchange_password_upon_first_use = true\n")
        cloud.testbed.restart("keystone")
        with Registrar(pooled(tenant, tmp_path, people_made(tenant, 1))) as registrar:
            asked(registrar, "POST", "/vps/a")
            told = asked(registrar, "POST", "/vps/a/claim")
            assert asked(registrar, "POST", "/vps/a/observe")["claimed"] is False
            Identity(Session(), cloud.auth_url).change_password(
                told["userId"], told["oneTimePassword"], secrets.token_urlsafe(32)
            )
            assert asked(registrar, "POST", "/vps/a/observe")["claimed"] is True
        domain = replace(tenant, key=secrets.token_hex(32))
        folder = tmp_path / "domain"
        folder.mkdir()
        with Registrar(domain.configuration(folder)) as registrar:
            asked(registrar, "POST", "/vps/b")
            told = asked(registrar, "POST", "/vps/b/claim")
            assert asked(registrar, "POST", "/vps/b/observe")["claimed"] is False
            Identity(Session(), cloud.auth_url).change_password(
                told["userId"], told["oneTimePassword"], secrets.token_urlsafe(32)
            )
            assert asked(registrar, "POST", "/vps/b/observe")["claimed"] is True


def pool(state: Path, number: int = 3) -> Pool:
    """Return a pool that asks no Keystone."""
    members: list[dict[str, Any]] = [
        {"userId": f"{at:032x}", "oneTimePassword": "x" * 20} for at in range(number)
    ]
    nobody = Identity(Session(), "http://127.0.0.1:1/v3")
    return Pool(nobody, parse_members(json.dumps(members).encode()), state)


def test_an_event_that_was_cut_off_never_happened(tmp_path: Path) -> None:
    """A crash while it was written: nobody was told of it."""
    state = tmp_path / "state"
    first = pool(state).make("a")
    with state.open("ab") as file:
        file.write(b'{"event": "given", "vps": "b", "us')
    assert pool(state).make("a") == first
    assert pool(state).make("b") != first
    assert pool(state).make("b") == pool(state).make("b")


@pytest.mark.parametrize("line", [b"x\n", b"{}\n", b'{"event": "sold", "vps": "a", "user": "0"}\n'])
def test_a_state_that_is_damaged(tmp_path: Path, line: bytes) -> None:
    """Whoever went on could give one user to two VPSs."""
    state = tmp_path / "state"
    pool(state).make("a")
    with state.open("ab") as file:
        file.write(line)
    with pytest.raises(RefusalError, match="is damaged"):
        pool(state).make("b")
