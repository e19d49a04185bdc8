"""The registrar as processes of its own, on the real Keystone of both releases: make to join, thieves."""

from __future__ import annotations

import contextlib
import grp
import json
import pwd
import secrets
import shutil
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from keystoneauth1 import exceptions as keystone_errors
from keystoneauth1.identity import v3
from keystoneauth1.session import Session

from deployer.cloud.errors import CloudError
from deployer.cloud.identity import Identity
from lab.testbed import tenant as sites
from lab.testbed.join import Joined, join
from lab.testbed.repeating import Repeating
from lab.testbed.running import Caller, UnixConnection
from lab.testbed.tenant import Registrar, Tenant

if TYPE_CHECKING:
    from collections.abc import Callable

WITHIN_S = 60.0


@pytest.fixture
def vps_id() -> str:
    """A VPS of this test's own."""
    return f"vps-{secrets.token_hex(4)}"


def ask(registrar: Registrar, method: str, target: str) -> tuple[int, dict[str, Any]]:
    """Make one request."""
    connection = UnixConnection(registrar.socket, WITHIN_S)
    try:
        connection.request(method, target)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def asked(registrar: Registrar, method: str, target: str) -> dict[str, Any]:
    """Make one request that succeeds."""
    status, content = ask(registrar, method, target)
    assert status == 200, content
    return content


def claimed(registrar: Registrar, vps_id: str) -> dict[str, str]:
    """Make a user and return its id and one-time password."""
    asked(registrar, "POST", f"/vps/{vps_id}")
    return asked(registrar, "POST", f"/vps/{vps_id}/claim")


def until_unlocked(registrar: Registrar, vps_id: str) -> None:
    """Have the registrar look until it has seen the claim."""
    end = time.monotonic() + WITHIN_S
    while not asked(registrar, "POST", f"/vps/{vps_id}/observe")["claimed"]:
        assert time.monotonic() < end, "the claim is never seen"


def joined(registrar: Registrar, tenant: Tenant, vps_id: str, told: dict[str, str]) -> Joined:
    """Let a VPS take its user over."""
    return join(
        tenant.cloud.auth_url,
        told["userId"],
        told["oneTimePassword"],
        tenant.runtime_id,
        lambda: until_unlocked(registrar, vps_id),
    )


def stranger(tenant: Tenant) -> Identity:
    """Somebody without any login."""
    return Identity(Session(), tenant.cloud.auth_url)


def test_from_nothing_to_a_reading_vps(registrar: Registrar, tenant: Tenant, vps_id: str) -> None:
    """The whole way; before the claim no role and no login, after it reader and nothing else."""
    told = claimed(registrar, vps_id)
    user_id = told["userId"]
    assert asked(registrar, "POST", f"/vps/{vps_id}") == {"userId": user_id}
    assert tenant.identity.assignments(user_id=user_id) == []
    attempt = stranger(tenant).try_password(user_id, told["oneTimePassword"])
    assert (attempt.right, attempt.token) == (True, None)
    assert asked(registrar, "POST", f"/vps/{vps_id}/observe") == {"userId": user_id, "claimed": False}
    vps = joined(registrar, tenant, vps_id, told)
    assert vps.deleted == ()
    (assignment,) = tenant.identity.assignments(user_id=user_id)
    reader = tenant.identity.find("roles", "reader")
    assert reader is not None
    assert (assignment.role_id, assignment.where_id) == (reader.id, tenant.runtime_id)
    container = tenant.cloud.deployment.create_vps(vps_id, user_id)
    agent = tenant.cloud.accounts.log_in_with(vps.credential)
    read = agent.get(container.container_ref, headers={"Accept": "application/json"}, log=False)
    assert read.json()["name"] == vps_id
    for listing in ("secrets", "containers"):
        url = f"{tenant.cloud.testbed.places.barbican_url}/v1/{listing}"
        assert agent.get(url, raise_exc=False, log=False).status_code == 401
    for secret in (told["oneTimePassword"], vps.password, vps.credential.secret, tenant.key):
        assert (secret in registrar.log.read_text() + repr(vps)) is False


class AgainAndAgain(Repeating):
    """Three who do something all the time."""

    def __init__(self, act: Callable[[], object]) -> None:
        super().__init__(threads=3)
        self._act = act

    def once(self) -> None:
        """Do it; a Keystone on SQLite that is busy answers 500."""
        with contextlib.suppress(CloudError):
            self._act()


def until_done(registrar: Registrar, target: str) -> dict[str, Any]:
    """Ask as the worker does: again, where Keystone failed."""
    end = time.monotonic() + WITHIN_S
    while (answer := ask(registrar, "POST", target))[0] == 502:
        assert time.monotonic() < end, answer[1]
    assert answer[0] == 200, answer[1]
    return answer[1]


def test_a_claim_is_seen_whatever_keystone_remembers(
    registrar: Registrar, tenant: Tenant, vps_id: str
) -> None:
    """Who reads a user while it is changed has Keystone answer its former state, for minutes."""
    asked(registrar, "POST", f"/vps/{vps_id}")
    user_id = asked(registrar, "POST", f"/vps/{vps_id}/observe")["userId"]
    with AgainAndAgain(lambda: tenant.identity.user(user_id)):
        told = until_done(registrar, f"/vps/{vps_id}/claim?again=true")
    password = secrets.token_urlsafe(32)
    stranger(tenant).change_password(user_id, told["oneTimePassword"], password)
    with AgainAndAgain(lambda: stranger(tenant).try_password(user_id, password, tenant.runtime_id)):
        assert until_done(registrar, f"/vps/{vps_id}/observe")["claimed"] is True
    assert stranger(tenant).try_password(user_id, password, tenant.runtime_id).token is not None


def test_a_disabled_user_does_not_log_in_however_often_he_tries(
    registrar: Registrar, tenant: Tenant, vps_id: str
) -> None:
    """Also where he tries all the time, while he is disabled; and the same when he is let in again."""
    vps = joined(registrar, tenant, vps_id, claimed(registrar, vps_id))

    def may() -> bool:
        return stranger(tenant).try_password(vps.user_id, vps.password, tenant.runtime_id).token is not None

    for word, then in (("disable", False), ("enable", True), ("disable", False)):
        with AgainAndAgain(may):
            until_done(registrar, f"/vps/{vps_id}/{word}")
        assert may() is then


def test_a_password_is_told_once(registrar: Registrar, tenant: Tenant, vps_id: str) -> None:
    """A second answer needs again=true, and ends the first; after the claim it ends the user, too."""
    told = claimed(registrar, vps_id)
    status, problem = ask(registrar, "POST", f"/vps/{vps_id}/claim")
    assert (status, problem["type"]) == (409, "urn:vps-secrets:problem:already-told")
    again = asked(registrar, "POST", f"/vps/{vps_id}/claim?again=true")
    assert (again["oneTimePassword"] == told["oneTimePassword"]) is False
    with pytest.raises(CloudError, match="change the password: HTTP 401"):
        stranger(tenant).change_password(told["userId"], told["oneTimePassword"], "x" * 40)
    former = joined(registrar, tenant, vps_id, again)
    status, problem = ask(registrar, "POST", f"/vps/{vps_id}/claim")
    assert (status, problem["type"]) == (409, "urn:vps-secrets:problem:already-claimed")
    anew = asked(registrar, "POST", f"/vps/{vps_id}/claim?again=true")
    assert (anew["userId"] == former.user_id) is False
    with pytest.raises(keystone_errors.ClientException):
        tenant.cloud.accounts.log_in_with(former.credential).get_token()
    assert stranger(tenant).try_password(former.user_id, former.password).right is False
    # between the change and the registrar's next look, too; and one that is disabled
    stranger(tenant).change_password(anew["userId"], anew["oneTimePassword"], "y" * 40)
    third = asked(registrar, "POST", f"/vps/{vps_id}/claim?again=true")
    asked(registrar, "POST", f"/vps/{vps_id}/disable")
    fourth = asked(registrar, "POST", f"/vps/{vps_id}/claim?again=true")
    assert len({one["userId"] for one in (told, anew, third, fourth)}) == 4
    assert joined(registrar, tenant, vps_id, fourth).user_id == fourth["userId"]


def test_two_who_claim_at_once(registrar: Registrar, vps_id: str) -> None:
    """One is told, the others are refused."""
    asked(registrar, "POST", f"/vps/{vps_id}")
    statuses: list[int] = []
    callers = [
        threading.Thread(target=lambda: statuses.append(ask(registrar, "POST", f"/vps/{vps_id}/claim")[0]))
        for _ in range(4)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert sorted(statuses) == [200, 409, 409, 409]


def test_a_thief_before_the_claim_makes_nothing(registrar: Registrar, tenant: Tenant, vps_id: str) -> None:
    """With the user data in hand: no login, so no credential that outlives the claim, on either release."""
    told = claimed(registrar, vps_id)
    for scope in ({}, {"project_id": tenant.runtime_id}, {"domain_id": tenant.domain_id}, {"unscoped": True}):
        login: Any = v3.Password(
            auth_url=tenant.cloud.auth_url,
            user_id=told["userId"],
            password=told["oneTimePassword"],
            **scope,
        )
        with pytest.raises((keystone_errors.Unauthorized, keystone_errors.MissingAuthMethods)):
            Session(auth=login).get_token()
    with pytest.raises(CloudError, match="HTTP 401"):
        join(tenant.cloud.auth_url, told["userId"], "wrong", tenant.runtime_id, lambda: None)
    assert joined(registrar, tenant, vps_id, told).deleted == ()


def test_a_thief_who_was_faster_is_noticed(registrar: Registrar, tenant: Tenant, vps_id: str) -> None:
    """The VPS's own change is refused: the alarm; the user is deleted and nothing was delivered."""
    told = claimed(registrar, vps_id)
    stranger(tenant).change_password(told["userId"], told["oneTimePassword"], "thief" * 10)
    with pytest.raises(CloudError, match="change the password: HTTP 401") as caught:
        joined(registrar, tenant, vps_id, told)
    assert not caught.value.retriable
    for _ in range(2):
        assert asked(registrar, "DELETE", f"/vps/{vps_id}") == {"remains": False}
    attempt = stranger(tenant).try_password(told["userId"], "thief" * 10)
    assert (attempt.right, attempt.token) == (False, None)


def test_what_a_thief_left_is_deleted(registrar: Registrar, tenant: Tenant, vps_id: str) -> None:
    """Of a user that was not locked, as a pool's: application credential, EC2 credential, totp, trust."""
    made = asked(registrar, "POST", f"/vps/{vps_id}")
    user_id, password = made["userId"], secrets.token_urlsafe(32)
    tenant.identity.change(
        "users", user_id, "unlock", password=password, options={"multi_factor_auth_enabled": False}
    )
    reader = tenant.identity.find("roles", "reader")
    assert reader is not None
    tenant.identity.grant(reader.id, user_id, "project", tenant.runtime_id)
    time.sleep(1.1)  # Keystone revokes every token of the second of the change
    url = tenant.cloud.auth_url
    login = v3.Password(auth_url=url, user_id=user_id, password=password, project_id=tenant.runtime_id)
    thief = Session(auth=login)
    body: dict[str, Any] = {"application_credential": {"name": "mine"}}
    assert thief.post(f"{url}/users/{user_id}/application_credentials", json=body).status_code == 201
    body = {"tenant_id": tenant.runtime_id}
    ec2 = thief.post(f"{url}/users/{user_id}/credentials/OS-EC2", json=body, raise_exc=False)
    assert ec2.status_code in {201, 403}  # Keystone 30 refuses it
    body = {"credential": {"type": "totp", "blob": "A" * 32, "user_id": user_id}}
    assert thief.post(f"{url}/credentials", json=body).status_code == 201
    body = {
        "trust": {
            "trustor_user_id": user_id,
            "trustee_user_id": user_id,
            "project_id": tenant.runtime_id,
            "impersonation": True,
            "roles": [{"name": "reader"}],
        }
    }
    assert thief.post(f"{url}/OS-TRUST/trusts", json=body).status_code == 201
    vps = join(url, user_id, password, tenant.runtime_id, lambda: None)
    kinds = sorted(path.rsplit("/", 2)[1] for path in vps.deleted)
    assert set(kinds) == {"application_credentials", "credentials", "trusts"} | (
        {"OS-EC2"} if ec2.status_code == 201 else set()
    )


def test_shut_out_and_let_in_again(registrar: Registrar, tenant: Tenant, vps_id: str) -> None:
    """Logins end while it is disabled; its own credential is there again afterwards."""
    vps = joined(registrar, tenant, vps_id, claimed(registrar, vps_id))
    for _ in range(2):
        assert asked(registrar, "POST", f"/vps/{vps_id}/disable")["enabled"] is False
    with pytest.raises(keystone_errors.Unauthorized):
        tenant.cloud.accounts.log_in_with(vps.credential).get_token()
    status, problem = ask(registrar, "POST", f"/vps/{vps_id}/observe")
    assert (status, problem["type"]) == (409, "urn:vps-secrets:problem:disabled")
    assert asked(registrar, "POST", f"/vps/{vps_id}/enable")["enabled"] is True
    assert tenant.cloud.accounts.log_in_with(vps.credential).get_token()


def test_an_observation_that_ended_half_way(registrar: Registrar, tenant: Tenant, vps_id: str) -> None:
    """Unlocked but without its role: the next look grants it."""
    told = claimed(registrar, vps_id)
    stranger(tenant).change_password(told["userId"], told["oneTimePassword"], "v" * 40)
    options = {"multi_factor_auth_enabled": False}
    tenant.identity.change("users", told["userId"], "unlock", options=options)
    for _ in range(2):
        assert asked(registrar, "POST", f"/vps/{vps_id}/observe")["claimed"] is True
    assert len(tenant.identity.assignments(user_id=told["userId"])) == 1


def test_another_key_is_no_claim(tenant: Tenant, registrar: Registrar, vps_id: str, tmp_path: Path) -> None:
    """A one-time password that can't be tried any more must not look like one that was changed."""
    told = claimed(registrar, vps_id)
    renewed = replace(tenant, key=secrets.token_hex(32))
    with Registrar(renewed.configuration(tmp_path)) as other:
        status, problem = ask(other, "POST", f"/vps/{vps_id}/observe")
        assert (status, problem["type"]) == (409, "urn:vps-secrets:problem:another-key")
        again = asked(other, "POST", f"/vps/{vps_id}/claim?again=true")
        assert joined(other, tenant, vps_id, again).user_id == told["userId"]


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/vps/vps-1", 405),
        ("POST", "/", 404),
        ("POST", "/vps/../x", 404),
        ("POST", "/vps/a%20b", 404),
        ("POST", "/vps/" + "a" * 65, 404),
        ("POST", "/vps/vps-1/steal", 404),
        ("DELETE", "/vps/vps-1/claim", 405),
        ("POST", "/vps/vps-1/observe?again=true", 404),
        ("POST", "/vps/vps-none/observe", 404),
        ("BREW", "/vps/vps-1", 501),
    ],
)
def test_requests_that_are_none(registrar: Registrar, method: str, target: str, status: int) -> None:
    """Each is answered with a problem."""
    found, problem = ask(registrar, method, target)
    assert found == status
    assert problem["type"].startswith("urn:vps-secrets:problem:")


def test_a_body_is_refused(registrar: Registrar) -> None:
    """Nothing has one here, so nothing can be in one."""
    connection = UnixConnection(registrar.socket, WITHIN_S)
    connection.request("POST", "/vps/vps-1", body=b"{}")
    assert connection.getresponse().status == 413
    connection.close()


def test_the_manager_can_do_no_more_than_it_needs(tenant: Tenant) -> None:
    """Outside its domain it makes, reads and grants nothing: a registrar that is taken over stays there."""
    login = v3.Password(
        auth_url=tenant.cloud.auth_url,
        username=sites.MANAGER,
        user_domain_name="Default",
        password=tenant.manager_password,
        domain_name=sites.DOMAIN,
    )
    manager = Identity(Session(auth=login), tenant.cloud.auth_url)
    mine = tenant.identity.find("users", sites.MANAGER, "default")
    creator = tenant.identity.find("roles", "creator")
    reader = tenant.identity.find("roles", "reader")
    deployer = tenant.identity.find("users", "recruitiq-deployment-service", "default")
    assert mine is not None
    assert deployer is not None
    assert creator is not None
    assert reader is not None
    attempts = (
        lambda: manager.make("users", "intruder", domain_id="default"),
        lambda: manager.grant(reader.id, mine.id, "project", tenant.secrets_id),
        lambda: manager.grant(creator.id, mine.id, "project", tenant.runtime_id),
        lambda: manager.user(deployer.id),
        lambda: manager.make("roles", "intruder"),
        lambda: manager.make("domains", "intruder"),
    )
    for attempt in attempts:
        with pytest.raises(CloudError, match="HTTP 403"):
            attempt()


def test_a_keystone_that_is_not_there(tenant: Tenant, tmp_path: Path, vps_id: str) -> None:
    """It is told in words, and that it may be tried again."""
    path = tenant.configuration(tmp_path)
    path.write_text(path.read_text().replace(tenant.cloud.auth_url, "http://127.0.0.1:1/v3"))
    with Registrar(path) as running:
        status, problem = ask(running, "POST", f"/vps/{vps_id}")
    assert (status, problem["retriable"]) == (502, True)
    assert "the connection failed (ECONNREFUSED)" in problem["detail"]


def test_credentials_that_others_can_read(tenant: Tenant, tmp_path: Path, vps_id: str) -> None:
    """Refused, with the file's name and no word of what is in it."""
    path = tenant.configuration(tmp_path)
    (tmp_path / "registrar-key").chmod(0o644)
    with Registrar(path) as running:
        status, problem = ask(running, "POST", f"/vps/{vps_id}")
    assert status == 500
    assert problem["detail"].startswith(f"read {tmp_path}/registrar-key: others can read")


def test_the_listening_process_has_no_credential(registrar: Registrar, tenant: Tenant, vps_id: str) -> None:
    """What it ever had in memory, its environment included, after a request was answered."""
    asked(registrar, "POST", f"/vps/{vps_id}")
    process = registrar._process
    assert process is not None
    known = Path(f"/proc/{process.pid}/environ").read_bytes() + _memory(process.pid)
    for secret in (tenant.manager_password, tenant.key):
        assert (secret.encode() in known) is False


def _memory(pid: int) -> bytes:
    """Return the writable memory of a process of ours."""
    found = b""
    with Path(f"/proc/{pid}/maps").open() as maps, Path(f"/proc/{pid}/mem").open("rb", 0) as memory:
        for line in maps:
            span, rights = line.split()[:2]
            if rights.startswith("rw") and "[v" not in line:
                begin, end = (int(number, 16) for number in span.split("-"))
                memory.seek(begin)
                found += memory.read(end - begin)
    return found


def test_who_may_ask(tenant: Tenant, vps_id: str) -> None:
    """The worker's user everything but a one-time password; a stranger nothing, whatever the mode."""
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o755)
    users = 'group = "games"\nmode = "0660"\napi_user = "www-data"\nworker_user = "mail"\n'
    group = grp.getgrnam("games").gr_gid
    try:
        with Registrar(tenant.configuration(directory, users)) as running:
            api, worker, nobody = (
                Caller(pwd.getpwnam(name).pw_uid, group) for name in ("www-data", "mail", "nobody")
            )
            make, claim = f"/vps/{vps_id}", f"/vps/{vps_id}/claim"
            assert nobody.ask(running.socket, make, "POST") == (403, "not-allowed")
            assert worker.ask(running.socket, make, "POST") == (200, "")
            assert worker.ask(running.socket, claim, "POST") == (403, "not-allowed")
            assert api.ask(running.socket, claim, "POST") == (200, "")
            assert worker.ask(running.socket, f"{make}/observe", "POST") == (200, "")
            assert worker.ask(running.socket, make, "DELETE") == (200, "")
    finally:
        shutil.rmtree(directory)
