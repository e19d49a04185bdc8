"""agent/identity on the real Keystone and Barbican of both releases, and what it does not say."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Any

import pytest
from keystoneauth1.identity import v3
from keystoneauth1.session import Session

from agent.identity.account import Account, Refusal, Token
from agent.identity.calls import Line
from agent.identity.consumers import Consumer, Consumers, url_of
from agent.identity.errors import IdentityError
from deployer.registrar.domain import OPTIONS
from lab.testbed.config import REGION

if TYPE_CHECKING:
    from lab.testbed.tenant import Tenant

DAY_S = 86400.0
WITHIN_S = 60.0
PASSWORD = "the first password of " + "x" * 40
OTHER = "another password, of 256 bits, " + "y" * 30
CONSUMER = {"name": "vps-secrets-key", "URL": "urn:vps-secrets:x25519:AAAA"}


def made(tenant: Tenant, **more: Any) -> Account:
    """Make a user with :data:`PASSWORD`, without a role, and wait for the next second."""
    name = f"vps-{secrets.token_hex(4)}"
    item = tenant.identity.make("users", name, domain_id=tenant.domain_id, password=PASSWORD, **more)
    time.sleep(1.1)
    return Account(Line(), tenant.cloud.auth_url, item.id)


def with_role(tenant: Tenant) -> tuple[Account, Token]:
    """Make a user with the role reader, logged in."""
    account = made(tenant)
    reader = tenant.identity.find("roles", "reader")
    assert reader is not None
    tenant.identity.grant(reader.id, account.user_id, "project", tenant.runtime_id)
    return account, logged_in(account, PASSWORD, tenant.runtime_id)


def logged_in(account: Account, password: str, project_id: str | None = None) -> Token:
    """Log in."""
    token = account.log_in(password, project_id)
    assert isinstance(token, Token)
    return token


def until_refused(account: Account, token: Token) -> None:
    """Wait until Keystone, which caches what it has validated, refuses a token."""
    end = time.monotonic() + WITHIN_S

    def use_it() -> None:
        while time.monotonic() < end:
            account.credentials(token)
            time.sleep(0.1)

    with pytest.raises(IdentityError, match="HTTP 401"):
        use_it()


def test_a_password_is_changed_once(tenant: Tenant) -> None:
    """The former one is worthless then, and a token that is made right after the change lasts."""
    account, _ = with_role(tenant)
    assert account.change_password(PASSWORD, OTHER)
    token = logged_in(account, OTHER, tenant.runtime_id)
    assert account.log_in(PASSWORD) is Refusal.WRONG
    assert not account.change_password(PASSWORD, "z" * 40)
    assert account.make_credential(token, "vps-secrets-1", DAY_S).credential.generation == 1


def test_a_locked_user_changes_its_password_and_nothing_else(tenant: Tenant) -> None:
    """What the registrar makes: locked is told from wrong."""
    account = made(tenant, options=OPTIONS)
    assert account.log_in(PASSWORD) is Refusal.LOCKED
    assert account.log_in(OTHER) is Refusal.WRONG
    assert account.change_password(PASSWORD, OTHER)
    assert account.log_in(OTHER) is Refusal.LOCKED
    tenant.identity.change("users", account.user_id, "unlock", options={"multi_factor_auth_enabled": False})
    token = logged_in(account, OTHER)
    assert token.project_id == ""
    assert account.projects(token) == ()
    tenant.identity.change("users", account.user_id, "disable", enabled=False)
    assert account.log_in(OTHER) is Refusal.WRONG
    assert not account.change_password(OTHER, PASSWORD)


def test_a_credential_from_making_to_deleting(tenant: Tenant) -> None:
    """Its name once, its life by Keystone's clock, its login, its end, and the rules that stay behind."""
    account, token = with_role(tenant)
    assert account.projects(logged_in(account, PASSWORD)) == (tenant.runtime_id,) == (token.project_id,)
    new = account.make_credential(token, "vps-secrets-7", 90 * DAY_S)
    assert account.credentials(token) == (new.credential,)
    assert new.credential.generation == 7
    assert new.credential.expires_at is not None
    assert abs(new.credential.expires_at - token.issued_at - 90 * DAY_S) < 2.0
    with pytest.raises(IdentityError) as caught:
        account.make_credential(token, "vps-secrets-7", DAY_S)
    assert (caught.value.status, caught.value.retriable) == (409, False)
    of_its_own = account.log_in_with(new.credential.id, new.secret)
    assert of_its_own.project_id == tenant.runtime_id
    ended = logged_in(account, PASSWORD)
    account.drop(ended)
    until_refused(account, ended)
    for _ in range(2):
        account.delete_credential(token, new.credential.id)
    with pytest.raises(IdentityError, match="HTTP 404"):
        account.log_in_with(new.credential.id, new.secret)
    rules = [one for one in account.belongings(token) if one.kind == "access_rules"]
    assert len(rules) == 6
    for rule in rules:
        account.delete(token, rule)
    assert account.belongings(token) == ()


def test_what_it_did_not_make_is_listed_and_deleted(tenant: Tenant) -> None:
    """Application credential, EC2 credential where Keystone makes one, totp, trust; a rule in use stays."""
    account, token = with_role(tenant)
    url, user_id = tenant.cloud.auth_url, account.user_id
    login = v3.Password(auth_url=url, user_id=user_id, password=PASSWORD, project_id=tenant.runtime_id)
    thief = Session(auth=login)
    mine = account.make_credential(token, "vps-secrets-1", DAY_S)
    body: dict[str, Any] = {"application_credential": {"name": "a thief's"}}
    thief.post(f"{url}/users/{user_id}/application_credentials", json=body)
    body = {"tenant_id": tenant.runtime_id}
    ec2 = thief.post(f"{url}/users/{user_id}/credentials/OS-EC2", json=body, raise_exc=False)
    body = {"credential": {"type": "totp", "blob": "A" * 32, "user_id": user_id}}
    thief.post(f"{url}/credentials", json=body)
    body = {
        "trust": {
            "trustor_user_id": user_id,
            "trustee_user_id": user_id,
            "project_id": tenant.runtime_id,
            "impersonation": True,
            "roles": [{"name": "reader"}],
        }
    }
    thief.post(f"{url}/OS-TRUST/trusts", json=body)
    found = account.belongings(token)
    kinds = {"application_credentials", "credentials", "trusts", "access_rules"}
    assert {one.kind for one in found} == kinds | ({"ec2"} if ec2.status_code == 201 else set())
    assert any("(a thief's)" in str(one) for one in found)
    for one in found:
        if one.id != mine.credential.id:
            account.delete(token, one)
    left = account.belongings(token)
    assert {one.kind for one in left} == {"application_credentials", "access_rules"}
    assert account.credentials(token) == (mine.credential,)
    assert account.log_in_with(mine.credential.id, mine.secret).project_id == tenant.runtime_id


def test_consumers_of_the_container(tenant: Tenant) -> None:
    """Registered and deleted, twice each, by the password's token; nobody else's container."""
    account, token = with_role(tenant)
    own = tenant.cloud.deployment.create_vps(f"vps-{secrets.token_hex(4)}", account.user_id)
    endpoint = token.endpoint("key-manager", REGION, "public")
    url = url_of(endpoint, tenant.cloud.auth_url, own.container_ref.rpartition("/")[2])
    assert url == own.container_ref
    assert token.endpoint("key-manager", "elsewhere", "public") is None
    consumers = Consumers(Line(), url)
    for _ in range(2):
        consumers.add(token, CONSUMER)
    wanted = Consumer(CONSUMER["name"], CONSUMER["URL"])
    assert consumers.listed(token) == (wanted,)
    for _ in range(2):
        consumers.remove(token, wanted)
    assert consumers.listed(token) == ()
    other, _ = with_role(tenant)
    foreign = tenant.cloud.deployment.create_vps(f"vps-{secrets.token_hex(4)}", other.user_id)
    with pytest.raises(IdentityError, match="read the container: HTTP 403"):
        Consumers(Line(), foreign.container_ref).listed(token)


@pytest.mark.parametrize("where", ["refused", "no TLS", "not Keystone"])
def test_a_keystone_that_is_not_there(tenant: Tenant, where: str) -> None:
    """It is told in words, may be tried again, and no password is reachable from the error."""
    places = tenant.cloud.testbed.places
    url, words = {
        "refused": ("http://127.0.0.1:1/v3", "ECONNREFUSED"),
        "no TLS": (tenant.cloud.auth_url.replace("http:", "https:"), "TLS handshake failed"),
        "not Keystone": (places.barbican_url, "HTTP 40"),
    }[where]
    with pytest.raises(IdentityError, match=words) as caught:
        Account(Line(), url, "0" * 32).change_password(PASSWORD, OTHER)
    assert caught.value.retriable is (where != "not Keystone")
    assert caught.value.__context__ is None
    assert (PASSWORD in repr(caught.value)) is False


def test_nothing_shows_a_secret(tenant: Tenant) -> None:
    """Nor do the shapes that hold one."""
    account, token = with_role(tenant)
    new = account.make_credential(token, "vps-secrets-1", DAY_S)
    shown = repr((token, new, account, vars(account)))
    assert [what for what in (token.value, new.secret, PASSWORD) if what in shown] == []
