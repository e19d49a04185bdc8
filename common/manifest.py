"""The manifest of one VPS: which secrets it has, as references. The agent writes it, the deployment reads it.

Served by the control socket (docs/socket-api.md). A payload has no place in it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from common import dates, untrusted_json
from common.limits import MAX_SECRETS
from common.names import SecretName, Version, parse_name, parse_version, parse_vps_id
from common.untrusted_json import MalformedError

if TYPE_CHECKING:
    from collections.abc import Mapping

_CHARACTERS: Final = 2000  # of a reference: more than any URL that a Barbican gives
_CONTAINER: Final = re.compile(r"(?P<base>.*)/containers/(?P<id>[^/]{36})")


@dataclass(frozen=True, slots=True)
class Reference:
    """One version of one secret. ``created`` and ``expires`` are Unix times (s), written to the second."""

    version: Version
    created: float
    expires: float | None


@dataclass(frozen=True, slots=True)
class Manifest:
    """``container`` is the reference as configured: a URL, or from ``/v1/`` on where only a UUID is known."""

    vps_id: str
    container: str
    secrets: Mapping[SecretName, Reference]


def encode(manifest: Manifest) -> dict[str, object]:
    """Return the members of the JSON object. References are in the container's Barbican."""
    base = manifest.container.rpartition("/containers/")[0]
    return {
        "vpsId": manifest.vps_id,
        "secretContainerRef": manifest.container,
        "secrets": {
            name: {
                "ref": f"{base}/secrets/{reference.version}",
                "description": f"{manifest.vps_id}/{name}",
                "created": dates.date(reference.created),
                "expires": None if reference.expires is None else dates.date(reference.expires),
            }
            for name, reference in sorted(manifest.secrets.items())
        },
    }


def decode(untrusted: bytes) -> Manifest:
    """Return the manifest that :func:`encode` wrote.

    Raises:
        MalformedError: it breaks a rule, such as a reference to another Barbican than the container's.
    """
    members = untrusted_json.record(
        untrusted_json.parse(untrusted, "the manifest"),
        "the manifest",
        ("vpsId", "secretContainerRef", "secrets"),
    )
    vps_id = parse_vps_id(untrusted_json.text(members["vpsId"], "vpsId", _CHARACTERS))
    container = untrusted_json.text(members["secretContainerRef"], "secretContainerRef", _CHARACTERS)
    match = _CONTAINER.fullmatch(container)
    if vps_id is None:
        raise MalformedError("vpsId is not the id of a VPS")
    if match is None or parse_version(match["id"]) is None:
        raise MalformedError("secretContainerRef is not a reference to a container")
    secrets = untrusted_json.mapping(members["secrets"], "secrets")
    if len(secrets) > MAX_SECRETS:
        raise MalformedError(f"secrets has more than {MAX_SECRETS} elements")
    return Manifest(
        vps_id,
        container,
        dict(_secret(name, secret, vps_id, match["base"]) for name, secret in secrets.items()),
    )


def _secret(untrusted_name: str, untrusted: object, vps_id: str, base: str) -> tuple[SecretName, Reference]:
    name = parse_name(untrusted_name)
    members = untrusted_json.record(untrusted, "a secret", ("ref", "description", "created", "expires"))
    start, _, version_text = untrusted_json.text(members["ref"], "ref", _CHARACTERS).rpartition("/")
    version = parse_version(version_text)
    if name is None:
        raise MalformedError("a name is not a secret's name")
    if version is None or start != f"{base}/secrets":
        raise MalformedError("ref is not a reference to a secret of the container's Barbican")
    if members["description"] != f"{vps_id}/{name}":
        raise MalformedError("description is not the secret's full name")
    created, expires = members["created"], members["expires"]
    return name, Reference(
        version, _date(created, "created"), None if expires is None else _date(expires, "expires")
    )


def _date(untrusted: object, what: str) -> float:
    moment = dates.parse(untrusted_json.text(untrusted, what, _CHARACTERS))
    if moment is None:
        raise MalformedError(f"{what} is not a date and time in UTC (RFC 3339)")
    return moment
