"""A small reader of OpenStack's clouds.yaml, with secure.yaml beside it, for one cloud by name.

Format: https://docs.openstack.org/openstacksdk/latest/user/config/configuration.html. Supported are the two
ways to log in that this agent knows; a key that would have an effect there and has none here is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import yaml

from agent.fetch.credential import read_file, refuse

if TYPE_CHECKING:
    from pathlib import Path

_APPLICATION: Final = frozenset(
    {
        *("auth_url", "application_credential_id", "application_credential_name"),
        *("application_credential_secret", "user_id", "username", "user_domain_id", "user_domain_name"),
    }
)
_PASSWORD: Final = frozenset(
    {
        *("auth_url", "username", "user_id", "password", "user_domain_id", "user_domain_name"),
        *("project_id", "project_name", "project_domain_id", "project_domain_name"),
    }
)
_METHODS: Final = {
    "v3applicationcredential": (_APPLICATION, "application_credential_secret"),
    "v3password": (_PASSWORD, "password"),
    "password": (_PASSWORD, "password"),
}
_OTHER_KEYS: Final = frozenset(
    {"auth", "auth_type", "region_name", "interface", "cacert", "identity_api_version", "verify"}
)


@dataclass(frozen=True, slots=True)
class Cloud:
    """How to log in to one cloud; ``auth`` are arguments of keystoneauth1's plugin, with the secret."""

    application_credential: bool
    auth: dict[str, Any] = field(repr=False)
    secret_key: str
    region: str | None
    interface: str | None
    ca_file: str | None


def read_cloud(path: Path, name: str, *, secret: str | None) -> Cloud:
    """Return a cloud of the file at ``path``; ``secret`` takes the place of the file's own secret part.

    Raises:
        CloudError: a file can't be read, names no such cloud, or holds the secret and is not private.
    """
    tried = f"read cloud {name} of {path}"
    beside = path.with_name("secure.yaml")
    members: dict[str, object] = {}
    auth: dict[str, object] = {}
    for file in (path, beside) if beside.exists() else (path,):
        found, exposed = _cloud_of(file, name, tried)
        found_auth = found.get("auth") or {}
        if not isinstance(found_auth, dict):
            refuse(tried, f"auth must be a mapping in {file}")
        if exposed and secret is None and {"password", "application_credential_secret"} & found_auth.keys():
            refuse(tried, f"{file} holds a secret and {exposed}; make it private (chmod 0600)")
        members |= found
        auth |= found_auth
    if not auth:
        refuse(tried, "there is no such cloud, or it has no auth")
    return _checked(members, auth, tried, secret)


def _checked(members: dict[str, object], auth: dict[str, object], tried: str, secret: str | None) -> Cloud:
    kind = members.get("auth_type", "password")
    if not isinstance(kind, str) or kind not in _METHODS:
        refuse(tried, f"auth_type must be one of {', '.join(sorted(_METHODS))}")
    known, secret_key = _METHODS[kind]
    if secret is not None:
        auth = auth | {secret_key: secret}
    unknown = sorted(map(str, (auth.keys() - known) | (members.keys() - _OTHER_KEYS)))
    if unknown:
        refuse(tried, f"these keys are not supported: {', '.join(unknown)}"[:400])
    if members.get("verify", True) is not True:
        refuse(tried, "verify can't be switched off; give cacert")
    if not {"auth_url", secret_key} <= auth.keys():
        refuse(tried, f"auth must have auth_url and {secret_key} (the latter may be in secure.yaml)")
    wrong = sorted(str(key) for key, value in auth.items() if not isinstance(value, str) or not value)
    if wrong:
        refuse(tried, f"these must be strings: {', '.join(wrong)}")
    return Cloud(
        kind == "v3applicationcredential",
        {key: str(value) for key, value in auth.items()},
        secret_key,
        _optional(members, "region_name", tried),
        _optional(members, "interface", tried),
        _optional(members, "cacert", tried),
    )


def _optional(members: dict[str, object], key: str, tried: str) -> str | None:
    value = members.get(key)
    if value is not None and not isinstance(value, str):
        refuse(tried, f"{key} must be a string")
    return value


def _cloud_of(path: Path, name: str, tried: str) -> tuple[dict[str, object], str | None]:
    file = read_file(path)
    document: object = None
    try:
        document = yaml.safe_load(file.content)
    except (yaml.YAMLError, ValueError, RecursionError):
        document = yaml  # not a mapping; the error would quote the file, so ours is raised outside
    clouds = document.get("clouds") if isinstance(document, dict) else None
    if document is not None and not isinstance(clouds, dict):
        refuse(tried, f"{path} is not YAML with a mapping clouds:")
    found = clouds.get(name) if isinstance(clouds, dict) else None
    return (found if isinstance(found, dict) else {}), file.exposed
