"""cloud verify as a whole: makes throw-away objects, tries everything, looks at roles and ACLs, cleans up."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from keystoneauth1.identity import v3
from keystoneauth1.session import Session

from deployer.cloud.barbican import Barbican
from deployer.cloud.calls import access
from deployer.cloud.errors import CloudError
from deployer.cloud.identity import Identity, domain_of
from deployer.cloud.verify import acls, backups, holes, matrix, objects, people
from deployer.cloud.verify.report import Finding, Report

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from deployer.cloud.accounts import ApplicationCredential
    from deployer.cloud.cloud_file import CloudFile


@dataclass(frozen=True, slots=True)
class Writer:
    """Who puts backups into a container of Swift, at ``url``."""

    name: str
    session: Session
    url: str


@dataclass(frozen=True, slots=True)
class Sessions:
    """Who takes part: the deployment service as the worker is, and whoever may make users.

    ``admin`` is an administrator's, ``manager`` the registrar's; at least one of them. Roles are looked at by
    ``admin`` only. Of a pool neither has to be there; ``pool`` has its users who were given to VPSs, ids with
    the names of their VPSs.
    """

    deployer: Session
    admin: Session | None = None
    manager: Session | None = None
    writers: tuple[Writer, ...] = ()
    pool: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ids:
    """Keystone's ids of what cloud.toml names."""

    domain: str
    runtime: str
    secrets: str | None
    deployer: str
    registrar: str | None


def verify(sessions: Sessions, wanted: CloudFile, auth_url: str, barbican_url: str, now: float) -> Report:
    """Prove the promises. ``now`` is Unix time (s).

    Raises:
        CloudError: a call that has to work did not; what was made is removed all the same.
    """
    url = f"{barbican_url.rstrip('/')}/v1"
    barbican = Barbican(sessions.deployer, barbican_url)
    acls.sweep(sessions.deployer, url, now)
    maker = sessions.admin or sessions.manager
    if maker is not None:
        report = _with_agents(sessions, maker, wanted, auth_url, barbican, now)
    elif wanted.registrar is None:
        report = _of_a_pool(sessions, barbican, now)
    else:
        raise CloudError("verify the cloud", "nobody is there who may make users", retriable=False)
    put = tuple(cell for one in sessions.writers for cell in backups.cells(one.name, one.session, one.url))
    cells = report.cells + put
    found = (*matrix.findings(report.cells), *backups.findings(put), *report.findings)
    return replace(
        report,
        cells=cells,
        findings=tuple(dict.fromkeys(found)),
        looked_at={"cells": len(cells)} | report.looked_at,
        untold=(holes.PATCH_LEVEL, holes.AUDIT),
    )


def _with_agents(  # noqa: PLR0917  # what it takes
    sessions: Sessions, maker: Session, wanted: CloudFile, auth_url: str, barbican: Barbican, now: float
) -> Report:
    """Try everything, as the worker and as the agents of two throw-away VPSs; look at roles and ACLs."""
    identity, url = Identity(maker, auth_url), barbican.url
    ids = _ids(sessions, identity, wanted)
    for item in identity.all("users", ids.domain):
        if objects.is_left_over(item.name, now):
            identity.remove("users", item.id)

    def log_in(user_id: str, password: str) -> ApplicationCredential:
        role = identity.find("roles", wanted.vps.roles[0])
        if role is None:
            raise CloudError("verify the cloud", f"there is no role {wanted.vps.roles[0]}", retriable=False)
        identity.grant(role.id, user_id, "project", ids.runtime)
        login = v3.Password(auth_url=auth_url, user_id=user_id, password=password, project_id=ids.runtime)
        rules = wanted.vps.rules
        return objects.agent_credential(login, auth_url, user_id, role.name, rules, verify=maker.verify)

    def open_session(credential: ApplicationCredential) -> Session:
        login = v3.ApplicationCredential(
            auth_url=auth_url,
            application_credential_id=credential.id,
            application_credential_secret=credential.secret,
        )
        return Session(auth=login, verify=maker.verify, timeout=maker.timeout)

    with objects.two(identity, barbican, log_in, open_session, domain_id=ids.domain, now=now) as (
        first,
        second,
    ):
        found = [*matrix.stolen(url, first, sessions.deployer), *holes.findings(auth_url, first, second)]
        actors = {
            matrix.DEPLOYER: sessions.deployer,
            matrix.FIRST: first.session,
            matrix.SECOND: second.session,
        }
        cells = tuple(matrix.cells(url, first, actors))
    users = {item.id: item.name for item in identity.all("users", ids.domain)}
    counted = {"VPS users": len(users)}
    left_out: list[str] = []
    found += acls.findings(sessions.deployer, url, users, counted)
    found += _people(sessions, wanted, auth_url, ids, users=users, left_out=left_out)
    return Report(cells, tuple(found), tuple(left_out), counted)


def _of_a_pool(sessions: Sessions, barbican: Barbican, now: float) -> Report:
    """Try as the worker alone, and look at the ACLs: the users are a person's, and are not played with."""
    with objects.alone(barbican, now) as made:
        found = list(matrix.stolen(barbican.url, made, sessions.deployer))
        cells = tuple(matrix.cells(barbican.url, made, {matrix.DEPLOYER: sessions.deployer}))
    counted = {"VPS users": len(sessions.pool)}
    found += acls.findings(sessions.deployer, barbican.url, sessions.pool, counted)
    left_out = (
        "what agents may do, and the holes of Keystone: that needs an administrator's login, to make users",
        "who has a role in the secrets project: that needs an administrator's login",
    )
    return Report(cells, tuple(found), left_out, counted)


def _people(
    sessions: Sessions,
    wanted: CloudFile,
    auth_url: str,
    ids: Ids,
    *,
    users: dict[str, str],
    left_out: list[str],
) -> Iterator[Finding]:
    if sessions.manager is not None:
        found = people.registrar_reaches_out(Identity(sessions.manager, auth_url), ids.deployer)
        if found:
            yield found
    else:
        left_out.append("what the registrar reaches: its login was not given")
    if sessions.admin is None:
        left_out.append("who has a role in the secrets project: that needs an administrator's login")
        left_out.append(
            "further roles of VPS users and of the registrar: that needs an administrator's login"
        )
        return
    admin = Identity(sessions.admin, auth_url)
    if ids.secrets is not None:
        yield from people.in_secrets_project(admin, wanted, ids.secrets, ids.deployer)
    yield from people.of_vps_users(admin, wanted, users, ids.runtime)
    if ids.registrar is not None:
        yield from people.of_registrar(admin, wanted, ids.registrar, ids.domain)


def _ids(sessions: Sessions, identity: Identity, wanted: CloudFile) -> Ids:
    """Return the ids; a manager sees its own domain only."""
    deployer = access(sessions.deployer, "log in as the deployment service").user_id
    secrets = registrar = None
    if sessions.admin is not None:
        domain = _found(identity, "domains", wanted.domain)
        secrets_domain = _found(identity, "domains", wanted.secrets.domain)
        secrets = _found(identity, "projects", wanted.secrets.name, secrets_domain)
        if wanted.registrar is not None:
            outside = _found(identity, "domains", wanted.registrar.domain)
            registrar = _found(identity, "users", wanted.registrar.user, outside)
        runtime_domain = _found(identity, "domains", wanted.runtime.domain)
    else:
        assert sessions.manager is not None  # noqa: S101  # verify() has looked
        domain = runtime_domain = domain_of(sessions.manager)
    runtime = _found(identity, "projects", wanted.runtime.name, runtime_domain)
    return Ids(domain, runtime, secrets, str(deployer), registrar)


def _found(identity: Identity, kind: str, name: str, domain_id: str | None = None) -> str:
    item = identity.find(kind, name, domain_id)
    if item is None:
        raise CloudError(f"look for {name} in {kind}", "it is not there: run cloud apply", retriable=False)
    return item.id
