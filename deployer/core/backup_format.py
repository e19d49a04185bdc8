"""What a backup says: each VPS's references with what is needed to make anew what is lost. Never a value.

One JSON object. A VPS in it is written as its manifest is (``vpsId``, ``secretContainerRef``, ``secrets``
with ``ref`` and ``description``), with its schedule beside it. Reading is strict: whoever can write where
backups lie could write one. :mod:`deployer.backup.signing` asks who did, and this asks what it says.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from common import dates, untrusted_json
from common.durations import span
from common.errors import VpsSecretsError
from common.limits import MAX_SECRETS
from common.names import SecretName, Version, parse_name, parse_version, parse_vps_id
from common.untrusted_json import MalformedError

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMAT: Final = "vps-secrets-backup"
VERSION: Final = 1
MAX_VPSES: Final = 1_000_000
MAX_DOCUMENT: Final = 256 * 1024
"""Characters of a blueprint, or of the cloud file."""
TOO_OLD_S: Final = 7 * 86400.0
"""What rotated since then would be listed as it was before."""
CLOCKS_S: Final = 86400.0
"""How far the clocks of two machines may be apart."""
_MEMBERS: Final = ("format", "version", "deployment", "made", "barbican", "blueprints", "cloud", "vpses")
_VPS: Final = (
    *("vpsId", "secretContainerRef", "blueprint", "labels", "wave", "wanted", "userId"),
    "secrets",
)
_SEALING: Final = ("required", "off")
_SECRET: Final = ("ref", "description", "kind", "group", "created", "due")
_WANTED: Final = ("present", "revoked")
_BASE: Final = re.compile(r"https?://[^\s/]+(/[^\s]*)?/v1")
_LINE: Final = 2000


class RefusedBackupError(VpsSecretsError):
    """A backup is not used; the text says why, and what to do instead."""


@dataclass(frozen=True, slots=True)
class SavedSecret:
    """One name: the version that was listed (None: there was none), and its dates (Unix time, s)."""

    version: Version | None
    kind: str
    group: str
    created: float | None
    due: float | None


@dataclass(frozen=True, slots=True)
class SavedVps:
    """One VPS: what it was to be, and what it had."""

    vps_id: str
    container: Version | None
    blueprint: str
    labels: Mapping[str, str]
    wave: int
    wanted: str
    user_id: str
    secrets: Mapping[SecretName, SavedSecret]
    sealing: str = "off"


@dataclass(frozen=True, slots=True)
class Backup:
    """All of one deployment at one moment (``made``: Unix time, s). ``barbican`` ends with ``/v1``."""

    deployment: str
    made: float
    barbican: str
    blueprints: Mapping[str, str]
    cloud: str | None
    vpses: tuple[SavedVps, ...]


def encode(backup: Backup) -> bytes:
    """Return the JSON. The same backup is the same bytes."""
    members = {
        "format": FORMAT,
        "version": VERSION,
        "deployment": backup.deployment,
        "made": dates.date(backup.made),
        "barbican": backup.barbican,
        "blueprints": dict(backup.blueprints),
        "cloud": backup.cloud,
        "vpses": [_encode_vps(vps, backup.barbican) for vps in backup.vpses],
    }
    return json.dumps(members, sort_keys=True, indent=1).encode()


def decode(untrusted: bytes) -> Backup:
    """Return what :func:`encode` wrote.

    Raises:
        RefusedBackupError: it breaks a rule, or is of a version that this program does not know.
    """
    try:
        return _decode(untrusted)
    except MalformedError as error:
        reason = str(error)
    raise RefusedBackupError(f"the backup does not say what a backup says: {reason}. Take another one.")


def accept(backup: Backup, now: float, deployment: str | None, *, most_s: float = TOO_OLD_S) -> None:
    """Refuse a backup of another deployment, or of another time. ``deployment`` None: none is known yet.

    Raises:
        RefusedBackupError: with the reason.
    """
    if deployment is not None and backup.deployment != deployment:
        raise RefusedBackupError(
            f"the backup is of deployment {backup.deployment}, this is {deployment}. Take one of this one."
        )
    age = now - backup.made
    if age > most_s:
        raise RefusedBackupError(
            f"the backup is {span(age)} old; at most {span(most_s)} are taken, since what rotated after it "
            "would be listed as it was before. Take a newer one, or allow this one with --max-age."
        )
    if age < -CLOCKS_S:
        raise RefusedBackupError(
            f"the backup says it was made in the future, on {dates.date(backup.made)}. "
            "Look at the clock of this machine."
        )


def _encode_vps(vps: SavedVps, base: str) -> dict[str, object]:
    return {
        "vpsId": vps.vps_id,
        "secretContainerRef": None if vps.container is None else f"{base}/containers/{vps.container}",
        "blueprint": vps.blueprint,
        "labels": dict(vps.labels),
        "wave": vps.wave,
        "wanted": vps.wanted,
        "sealing": vps.sealing,
        "userId": vps.user_id,
        "secrets": {
            name: {
                "ref": None if secret.version is None else f"{base}/secrets/{secret.version}",
                "description": f"{vps.vps_id}/{name}",
                "kind": secret.kind,
                "group": secret.group,
                "created": _encode_date(secret.created),
                "due": _encode_date(secret.due),
            }
            for name, secret in vps.secrets.items()
        },
    }


def _encode_date(moment: float | None) -> str | None:
    return None if moment is None else dates.date(moment)


def _decode(untrusted: bytes) -> Backup:
    whole = untrusted_json.mapping(untrusted_json.parse(untrusted, "the backup"), "the backup")
    if whole.get("format") != FORMAT:
        raise MalformedError("it is no backup of VPS secrets")
    if whole.get("version") != VERSION:
        raise MalformedError(f"its version is another than {VERSION}: a newer program may read it")
    members = untrusted_json.record(whole, "the backup", _MEMBERS)
    deployment = parse_version(_text(members["deployment"], "deployment"))
    barbican = _text(members["barbican"], "barbican")
    if deployment is None:
        raise MalformedError("deployment is not the id of one")
    if not _BASE.fullmatch(barbican):
        raise MalformedError("barbican is not the address of one")
    blueprints = untrusted_json.mapping(members["blueprints"], "blueprints")
    cloud = members["cloud"]
    vpses = tuple(
        _vps(vps, barbican, blueprints) for vps in untrusted_json.array(members["vpses"], "vpses", MAX_VPSES)
    )
    if len({vps.vps_id for vps in vpses}) != len(vpses):
        raise MalformedError("a VPS is there twice")
    return Backup(
        deployment=deployment,
        made=_date(members["made"], "made"),
        barbican=barbican,
        blueprints={_text(name, "a blueprint"): _document(text) for name, text in blueprints.items()},
        cloud=None if cloud is None else _document(cloud),
        vpses=vpses,
    )


def _vps(untrusted: object, base: str, blueprints: Mapping[str, object]) -> SavedVps:
    # a backup from before there were keys does not say it
    members = {"sealing": "off"} | untrusted_json.mapping(untrusted, "a VPS")
    members = untrusted_json.record(members, "a VPS", (*_VPS, "sealing"))
    vps_id = parse_vps_id(_text(members["vpsId"], "vpsId"))
    wanted = _text(members["wanted"], "wanted")
    blueprint = _text(members["blueprint"], "blueprint")
    secrets = untrusted_json.mapping(members["secrets"], "secrets")
    if vps_id is None:
        raise MalformedError("vpsId is not the id of a VPS")
    if wanted not in _WANTED:
        raise MalformedError(f"wanted is none of {', '.join(_WANTED)}")
    sealing = _text(members["sealing"], "sealing")
    if sealing not in _SEALING:
        raise MalformedError(f"sealing is none of {', '.join(_SEALING)}")
    if blueprint not in blueprints:
        raise MalformedError("a VPS has a blueprint that is not there")
    if len(secrets) > MAX_SECRETS:
        raise MalformedError(f"secrets has more than {MAX_SECRETS} elements")
    labels = untrusted_json.mapping(members["labels"], "labels")
    return SavedVps(
        vps_id=vps_id,
        container=_reference(members["secretContainerRef"], f"{base}/containers/", "secretContainerRef"),
        blueprint=blueprint,
        labels={_text(name, "a label"): _text(label, "a label") for name, label in labels.items()},
        wave=untrusted_json.integer(members["wave"], "wave", 2**31 - 1),
        wanted=wanted,
        user_id=_text(members["userId"], "userId"),
        sealing=sealing,
        secrets=dict(_secret(name, secret, vps_id, base) for name, secret in secrets.items()),
    )


def _secret(untrusted_name: str, untrusted: object, vps_id: str, base: str) -> tuple[SecretName, SavedSecret]:
    name = parse_name(untrusted_name)
    members = untrusted_json.record(untrusted, "a secret", _SECRET)
    if name is None:
        raise MalformedError("a name is not a secret's name")
    if members["description"] != f"{vps_id}/{name}":
        raise MalformedError("description is not the secret's full name")
    created, due = members["created"], members["due"]
    return name, SavedSecret(
        version=_reference(members["ref"], f"{base}/secrets/", "ref"),
        kind=_text(members["kind"], "kind"),
        group=_text(members["group"], "group"),
        created=None if created is None else _date(created, "created"),
        due=None if due is None else _date(due, "due"),
    )


def _reference(untrusted: object, start: str, what: str) -> Version | None:
    if untrusted is None:
        return None
    text = _text(untrusted, what)
    version = parse_version(text[len(start) :]) if text.startswith(start) else None
    if version is None:
        raise MalformedError(f"{what} is not a reference into this Barbican")
    return version


def _text(untrusted: object, what: str) -> str:
    return untrusted_json.text(untrusted, what, _LINE)


def _document(untrusted: object) -> str:
    """Return a text of several lines."""
    if not isinstance(untrusted, str) or len(untrusted) > MAX_DOCUMENT:
        raise MalformedError(f"a file in it is not a text of at most {MAX_DOCUMENT} characters")
    if not all(line.replace("\t", " ").isprintable() for line in untrusted.splitlines()):
        raise MalformedError("a file in it has characters that can't be printed")
    return untrusted


def _date(untrusted: object, what: str) -> float:
    moment = dates.parse(_text(untrusted, what))
    if moment is None:
        raise MalformedError(f"{what} is not a date and time in UTC (RFC 3339)")
    return moment
