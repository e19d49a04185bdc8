"""Reads what a cloud has and makes what cloud.toml wants, with an administrator's session, by a person."""

from __future__ import annotations

import contextlib
import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from common.dates import date
from deployer.cloud import object_store, own_login
from deployer.cloud.accounts import REVOCATION_SECOND_S, Accounts, ApplicationCredential, User
from deployer.cloud.cloud_plan import Change, Granted, Make, Present, plan
from deployer.cloud.errors import CloudError
from deployer.cloud.object_store import Shape

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keystoneauth1.session import Session

    from deployer.cloud.cloud_file import Account, CloudFile, Container, Place
    from deployer.cloud.identity import Assignment, Identity

ROUNDS: Final = 3
"""A second one finds what another administrator did at the same time."""


@dataclass(frozen=True, slots=True)
class Credential:
    """What a program logs in with, told once: an id and its secret part."""

    user: str
    id: str
    """Of the application credential; the user's own id where the secret is a password."""
    secret: str = field(repr=False)
    url: str = ""
    """Of the container that it may write into."""


def read(identity: Identity, wanted: CloudFile, region: str | None = None) -> Present:
    """Return what is there of what the file names, and who has a role there. ``region`` is Swift's.

    Where there are containers to look at, a user is made that looks, and deleted.
    """
    names = {
        wanted.domain,
        *(place.domain for place in wanted.places),
        *(account.domain for account in wanted.accounts),
    }
    domains = {name: item.id for name in names if (item := identity.find("domains", name))}
    projects = {
        place: item.id
        for place in wanted.places
        if place.domain in domains and (item := identity.find("projects", place.name, domains[place.domain]))
    }
    users = {
        (account.user, account.domain)
        for account in wanted.accounts
        if account.domain in domains
        and identity.find("users", account.user, domains[account.domain]) is not None
    }
    granted = frozenset(_granted(identity, wanted, domains, projects))
    right, others = _containers(identity, wanted, region, domains=domains, projects=projects)
    return Present(
        domains=frozenset(domains),
        roles=frozenset(item.name for item in identity.all("roles")),
        containers=right,
        open_to_others=others,
        projects=frozenset((place.name, place.domain) for place in projects),
        users=frozenset(users),
        granted=granted,
    )


def _containers(
    identity: Identity,
    wanted: CloudFile,
    region: str | None,
    *,
    domains: dict[str, str],
    projects: dict[Place, str],
) -> tuple[frozenset[Container], frozenset[str]]:
    """Return those that are as they should be, and what others may do with them."""
    right: set[Container] = set()
    others: set[str] = set()
    for container in wanted.containers:
        shape = _shape(identity, container, wanted, domains=domains, projects=projects)
        if shape is None or wanted.domain not in domains:
            continue  # what it needs is made before
        project_id = projects[container.place]
        with _operating(identity, wanted, project_id, domains[wanted.domain], region) as account:
            found = account.shape(container.name)
        if found is not None and found.has(shape):
            right.add(container)
        if found is not None:
            others |= {
                f"the container {container.name} can be {what}, whom cloud.toml does not name: take it away"
                for what in found.excess(shape)
            }
    return frozenset(right), frozenset(others)


def _operating(
    identity: Identity, wanted: CloudFile, project_id: str, domain_id: str, region: str | None
) -> contextlib.AbstractContextManager[object_store.Account]:
    """Give a project's account to somebody with the role that ``wanted`` has for that."""
    return object_store.operating(
        identity, role=wanted.operator_role, project_id=project_id, domain_id=domain_id, region=region
    )


def _shape(
    identity: Identity,
    container: Container,
    wanted: CloudFile,
    *,
    domains: dict[str, str],
    projects: dict[Place, str],
) -> Shape | None:
    """Return what a container is to be, by ids; None where something that it needs is not there yet."""
    needed = [container.place, *([container.readers] if container.readers else [])]
    write: set[str] = set()
    if container.writer is not None:
        needed.append(wanted.backup_writers)
        domain_id = domains.get(container.writer.domain)
        user = identity.find("users", container.writer.user, domain_id) if domain_id else None
        if user is None or wanted.backup_writers not in projects:
            return None
        write.add(f"{projects[wanted.backup_writers]}:{user.id}")
    if not projects.keys() >= set(needed):
        return None
    read = {f"{projects[container.readers]}:*"} if container.readers else set()
    return Shape(frozenset(read), frozenset(write), container.versioned)


def _granted(
    identity: Identity, wanted: CloudFile, domains: dict[str, str], projects: dict[Place, str]
) -> Iterator[Granted]:
    roles = {item.id: item.name for item in identity.all("roles")}
    domain_names = {item.id: item.name for item in identity.all("domains")}
    users = {item.id: item for item in identity.all("users")}

    def read_one(assignment: Assignment, project: str, domain: str) -> Granted:
        user = users.get(assignment.user_id)
        name = user.name if user else assignment.user_id or f"group {assignment.group_id}"
        user_domain = domain_names.get(user.domain_id, "") if user else ""
        return Granted(roles.get(assignment.role_id, assignment.role_id), name, user_domain, project, domain)

    for place, project_id in projects.items():
        for assignment in identity.assignments(scope_project_id=project_id):
            yield read_one(assignment, place.name, place.domain)
    if wanted.domain in domains:
        for assignment in identity.assignments(scope_domain_id=domains[wanted.domain]):
            yield read_one(assignment, "", wanted.domain)


def apply(identity: Identity, wanted: CloudFile, region: str | None = None) -> tuple[Change, ...]:
    """Make what is missing and return it; what is there already is left as it is.

    Raises:
        CloudError: a call was refused; what was made stays, and the whole can be repeated.
    """
    done: list[Change] = []
    for _ in range(ROUNDS):
        changes = plan(wanted, read(identity, wanted, region)).changes
        if not changes:
            return tuple(done)
        for change in changes:
            if change.make is Make.CONTAINER:
                _make_container(identity, wanted, change, region)
            else:
                _perform(identity, change)
            done.append(change)
    reason = f"it is not there after it was made, such as: {changes[0]}"
    raise CloudError("make what cloud.toml says", reason, retriable=True)


def _make_container(identity: Identity, wanted: CloudFile, change: Change, region: str | None) -> None:
    container = next(
        one for one in wanted.containers if (one.name, one.place.name) == (change.name, change.project)
    )
    names = {wanted.domain, *(place.domain for place in wanted.places)}
    domains = {name: _domain(identity, name) for name in names}
    projects = {
        place: _found(identity, "projects", place.name, domains[place.domain]) for place in wanted.places
    }
    domains |= {account.domain: _domain(identity, account.domain) for account in wanted.accounts}
    shape = _shape(identity, container, wanted, domains=domains, projects=projects)
    if shape is None:
        raise CloudError(str(change), "what it needs is not there: run cloud apply again", retriable=True)
    with _operating(identity, wanted, projects[container.place], domains[wanted.domain], region) as account:
        account.make(container.name, shape)


def _perform(identity: Identity, change: Change) -> None:
    if change.make is Make.DOMAIN:
        identity.make("domains", change.name)
    elif change.make is Make.ROLE:
        identity.make("roles", change.name)
    elif change.make is Make.PROJECT:
        identity.make("projects", change.name, domain_id=_domain(identity, change.domain))
    elif change.make is Make.USER:
        password = secrets.token_urlsafe(32)  # nobody learns it: see credentials()
        identity.make("users", change.name, domain_id=_domain(identity, change.domain), password=password)
    else:
        domain = _domain(identity, change.domain)
        where, where_id = "domain", domain
        if change.project:
            where, where_id = "project", _found(identity, "projects", change.project, domain)
        user = _found(identity, "users", change.user, _domain(identity, change.user_domain))
        identity.grant(_found(identity, "roles", change.name), user, where, where_id)


def new_password(identity: Identity, account: Account) -> Credential:
    """Give an account a new random password and return it: the registrar's login.

    Its tokens end, and no other login of it may be under way.
    """
    user_id = _found(identity, "users", account.user, _domain(identity, account.domain))
    password = secrets.token_urlsafe(32)
    options = {"ignore_password_expiry": True, "ignore_change_password_upon_first_use": True}
    step = f"set a new password for {account.user}"
    identity.change("users", user_id, step, options=options)
    description = own_login.password_label(time.time())
    identity.change("users", user_id, step, password=password, description=description)
    time.sleep(REVOCATION_SECOND_S)  # Keystone revokes every token of this second
    return Credential(account.user, user_id, password)


def new_credential(
    identity: Identity,
    session: Session,
    auth_url: str,
    account: Account,
    place: Place,
    *,
    container: str | None = None,
    region: str | None = None,
    lasts_s: float | None = None,
) -> Credential:
    """Give an account a new application credential with its access rules, and return it.

    ``session`` is the administrator's; verify and timeout are taken from it. The account's password is
    changed for that, to one that nobody learns. ``container``: of its project, into which it may put.
    ``lasts_s`` is None for one without an end.
    """
    with _as_itself(identity, session, auth_url, account, place) as (accounts, user, own):
        url = f"{object_store.account_url(own, region)}/{container}" if container else ""
        return _limited(accounts, account, user, own, url=url, lasts_s=lasts_s)


def new_backup_credential(
    identity: Identity,
    session: Session,
    auth_url: str,
    wanted: CloudFile,
    region: str | None = None,
    *,
    lasts_s: float | None = None,
) -> Credential:
    """Give the writer of backups a new application credential, which puts into their container only.

    Raises:
        CloudError: there is no [backup] in the file, or something of it is not there.
    """
    if wanted.backup is None:
        raise CloudError("make the credential of backups", "cloud.toml has no [backup]", retriable=False)
    account = wanted.backup_writer
    project_id = _found(identity, "projects", wanted.backup.name, _domain(identity, wanted.backup.domain))
    domain_id = _domain(identity, wanted.domain)
    with _operating(identity, wanted, project_id, domain_id, region) as owner:
        url = f"{owner.url}/{wanted.backup_container}"
    with _as_itself(identity, session, auth_url, account, wanted.backup_writers) as (accounts, user, own):
        return _limited(accounts, account, user, own, url=url, lasts_s=lasts_s)


def _limited(
    accounts: Accounts, account: Account, user: User, own: Session, *, url: str, lasts_s: float | None
) -> Credential:
    """Make the application credential, with the account's rules and one to put below ``url``."""
    name = f"{account.application_credential}-{secrets.token_hex(4)}"  # a name can't be used twice
    objects = [("PUT", f"{urlsplit(url).path}/*")] if url else []
    ends = None if lasts_s is None else date(time.time() + lasts_s).removesuffix("Z")
    made = accounts.application_credential(user, own, name, account.rules, ends, objects=objects)
    return Credential(account.user, made.id, made.secret, url)


def end_former_credentials(
    identity: Identity,
    session: Session,
    auth_url: str,
    account: Account,
    place: Place,
    *,
    keep: frozenset[str],
) -> int:
    """Delete every application credential of an account but those to ``keep``; return how many.

    Raises:
        CloudError: Keystone refused, or the account has not all of these: nothing was deleted then.
    """
    with _as_itself(identity, session, auth_url, account, place) as (accounts, user, own):
        there = accounts.application_credentials(user, own)
        if not keep or not keep <= there:
            reason = "it has not all that deployer.toml names as application_credential_id"
            raise CloudError(f"end former credentials of {account.user}", reason, retriable=False)
        for credential_id in sorted(there - keep):
            credential = ApplicationCredential(credential_id, "")
            accounts.delete_application_credential(user, own, credential)
    return len(there - keep)


@contextlib.contextmanager
def _as_itself(
    identity: Identity, session: Session, auth_url: str, account: Account, place: Place
) -> Iterator[tuple[Accounts, User, Session]]:
    """Log in as an account, which alone may see to its application credentials.

    With a password that is made for this and replaced in the end by one that nobody learns.
    """
    password = new_password(identity, account)
    try:
        project_id = _found(identity, "projects", place.name, _domain(identity, place.domain))
        user = User(account.user, password.id, project_id, password.secret)
        accounts = Accounts(session, auth_url)
        yield accounts, user, accounts.log_in(user, verify=session.verify, timeout=session.timeout)
    finally:
        new_password(identity, account)


def _domain(identity: Identity, name: str) -> str:
    return _found(identity, "domains", name)


def _found(identity: Identity, kind: str, name: str, domain_id: str | None = None) -> str:
    item = identity.find(kind, name, domain_id)
    if item is None:
        raise CloudError(f"look for {name} in {kind}", "it is not there: run cloud apply", retriable=False)
    return item.id
