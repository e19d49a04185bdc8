"""cloud.toml as Terraform, for a site that manages projects, users and roles that way. Holds no secret.

Users get no password here: ``cloud credential`` sets one when it makes what a program logs in with. Provider:
https://registry.terraform.io/providers/terraform-provider-openstack/openstack
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from deployer.cloud.cloud_file import Account, CloudFile

HEAD: Final = """\
# Made by vps-secrets-deploy cloud export. It holds no secret.
terraform {
  required_providers {
    openstack = {
      source = "terraform-provider-openstack/openstack"
    }
  }
}
"""


def terraform(wanted: CloudFile) -> str:
    """Return the file's domains, projects, users and roles in Terraform's language."""
    return "\n".join([HEAD, *_blocks(wanted)])


def _blocks(wanted: CloudFile) -> Iterator[str]:
    domain = "openstack_identity_project_v3"
    yield _block("resource", domain, wanted.domain, {"name": wanted.domain, "is_domain": True})
    others = {place.domain for place in wanted.places} | {account.domain for account in wanted.accounts}
    for name in sorted(others - {wanted.domain}):
        yield _block("data", domain, name, {"name": name, "is_domain": True})
    for place in wanted.places:
        members = {"name": place.name, "domain_id": _Reference(_domain(wanted, place.domain))}
        yield _block("resource", "openstack_identity_project_v3", place.name, members)
    for role in sorted({role for account in wanted.accounts for role in account.roles}):
        yield _block("data", "openstack_identity_role_v3", role, {"name": role})
    for account in wanted.accounts:
        members = {"name": account.user, "domain_id": _Reference(_domain(wanted, account.domain))}
        yield _block("resource", "openstack_identity_user_v3", account.user, members)
    secrets = f"openstack_identity_project_v3.{_label(wanted.secrets.name)}.id"
    yield from _assignments(wanted.deployer, {"project_id": _Reference(secrets)})
    if wanted.backup is not None:
        writers = f"openstack_identity_project_v3.{_label(wanted.backup_writers.name)}.id"
        yield from _assignments(wanted.backup_writer, {"project_id": _Reference(writers)})
    if wanted.registrar is not None:
        yield from _assignments(wanted.registrar, {"domain_id": _Reference(_domain(wanted, wanted.domain))})


def _assignments(account: Account, where: Mapping[str, object]) -> Iterator[str]:
    for role in account.roles:
        members = {
            "user_id": _Reference(f"openstack_identity_user_v3.{_label(account.user)}.id"),
            "role_id": _Reference(f"data.openstack_identity_role_v3.{_label(role)}.id"),
            **where,
        }
        yield _block("resource", "openstack_identity_role_assignment_v3", f"{account.user} {role}", members)


class _Reference(str):
    """An expression of Terraform's, which is written without quotes."""

    __slots__ = ()


def _domain(wanted: CloudFile, name: str) -> str:
    data = "" if name == wanted.domain else "data."
    return f"{data}openstack_identity_project_v3.{_label(name)}.id"


def _block(kind: str, what: str, name: str, members: Mapping[str, object]) -> str:
    lines = [
        f"  {key} = {value if isinstance(value, _Reference) else json.dumps(value)}"
        for key, value in members.items()
    ]
    return "\n".join([f'{kind} "{what}" "{_label(name)}" {{', *lines, "}", ""])


def _label(name: str) -> str:
    """Return a name as Terraform takes it for a label; names of cloud.toml have no ``$`` and no quotes."""
    label = re.sub(r"[^A-Za-z0-9_-]", "_", name)
    return label if not label[0].isdigit() else f"_{label}"
