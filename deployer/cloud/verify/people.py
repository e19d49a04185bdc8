"""Who has which role: in the secrets project, among the VPS users, and the registrar in its domain."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deployer.cloud.errors import CloudError
from deployer.cloud.verify.report import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from deployer.cloud.cloud_file import CloudFile
    from deployer.cloud.identity import Assignment, Identity


def in_secrets_project(
    identity: Identity, wanted: CloudFile, project_id: str, deployer_id: str
) -> Iterator[Finding]:
    """Find everybody in the secrets project but the deployment service, by a group or from above too."""
    roles = {item.id: item.name for item in identity.all("roles")}
    users = {item.id: item.name for item in identity.all("users")}
    found: dict[str, set[str]] = {}
    for assignment in identity.assignments(scope_project_id=project_id, effective="true"):
        found.setdefault(assignment.user_id, set()).add(roles.get(assignment.role_id, assignment.role_id))
    found.pop(deployer_id, None)
    for user_id, held in sorted(found.items()):
        yield Finding(
            "person-in-secrets-project",
            f"{users.get(user_id, user_id)} has {_roles(held)} in {wanted.secrets.name}, where only "
            f"{wanted.deployer.user} may have one; whoever has may read or open secrets: take it away",
        )
    # its own roles imply others, which are none too many
    held = {roles.get(one.role_id, one.role_id) for one in identity.assignments(user_id=deployer_id)}
    if held - set(wanted.deployer.roles):
        more = _roles(held - set(wanted.deployer.roles))
        yield Finding(
            "deployer-second-role",
            f"{wanted.deployer.user} has {more}, which it does not need: take it away",
        )


def _roles(names: set[str]) -> str:
    return f"the role{'s' if len(names) > 1 else ''} {' and '.join(sorted(names))}"


def of_vps_users(
    identity: Identity, wanted: CloudFile, users: Mapping[str, str], runtime_id: str
) -> Iterator[Finding]:
    """Find every role of a VPS user but its own; ``users`` are names by their ids."""
    roles = {item.id: item.name for item in identity.all("roles")}
    found = [one for user_id in users for one in identity.assignments(user_id=user_id)]
    for assignment in found:
        role = roles.get(assignment.role_id, assignment.role_id)
        if assignment.where_id != runtime_id or role not in wanted.vps.roles or assignment.inherited:
            yield Finding(
                "vps-user-second-role",
                f"the user of {users[assignment.user_id]} has the role {role} in the {assignment.where} "
                f"{assignment.where_id}, and may have {' and '.join(wanted.vps.roles)} in "
                f"{wanted.runtime.name} only: take it away",
            )


def of_registrar(
    identity: Identity, wanted: CloudFile, registrar_id: str, domain_id: str
) -> Iterator[Finding]:
    """Find every role of the registrar but that of a manager of its one domain."""
    roles = {item.id: item.name for item in identity.all("roles")}
    allowed = wanted.registrar.roles if wanted.registrar else ()

    def is_allowed(assignment: Assignment) -> bool:
        role = roles.get(assignment.role_id, "")
        return assignment.where_id == domain_id and role in allowed and not assignment.inherited

    for assignment in identity.assignments(user_id=registrar_id):
        if not is_allowed(assignment):
            role = roles.get(assignment.role_id, assignment.role_id)
            yield Finding(
                "registrar-has-more",
                f"the registrar has the role {role} in a {assignment.where}: it may be manager of "
                f"{wanted.domain} only (admin of a domain is nearly admin of the cloud); take it away",
            )


def registrar_reaches_out(manager: Identity, deployer_id: str) -> Finding | None:
    """Try with the registrar's own login to read a user of another domain, which only an admin may."""
    try:
        manager.user(deployer_id)
    except CloudError as error:
        if error.status is not None:
            return None
        raise
    return Finding(
        "registrar-has-more",
        "the registrar can read users of other domains: it is admin, not manager, of its domain, which is "
        "nearly admin of the cloud; give it manager instead",
    )
