"""Barbican's answers, checked.

Each function takes parsed JSON and raises MalformedError for what does not fit, ForeignError for what is not
this VPS's.

Of a reference only the UUID is used, whatever address it names: Barbican writes references with its
``host_href``, which may be another name of the same service. But all references of one answer have the
same address; another one among them is refused, since somebody else wrote it.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final, NamedTuple

from common import untrusted_json
from common.limits import MAX_NAME, MAX_VPS_ID
from common.names import SecretName, Version, parse_entry_name, parse_version
from common.untrusted_json import MalformedError
from deployer.cloud.errors import ForeignError
from deployer.core.model import Entry, Made, Marks

NOT_FOUND: Final = 404
MAX_ENTRIES: Final = 1000
"""Of a container, also in a rotation of everything."""
MAX_CONSUMERS: Final = 1000
MAX_TEXT: Final = 255
"""Of any column of Barbican's."""
_MAX_ITEMS: Final = 1000
_MAX_TOTAL: Final = 2**53
_SHOWN: Final = 80
_LONGEST_REFERENCE: Final = 2048
_LONGEST_NAME: Final = MAX_VPS_ID + MAX_NAME + 20
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?(?:Z|\+00:00)?", re.ASCII)
_MARK: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
_MARKS: Final = frozenset({"rotation", "kind", "slot", "sequence", "key"})
_SEQUENCE: Final = re.compile(r"[1-9][0-9]{0,15}", re.ASCII)


class Listing(NamedTuple):
    """What a container holds. ``consumers`` are the URLs of who has registered there."""

    entries: frozenset[Entry]
    consumers: frozenset[str]


class Reference(NamedTuple):
    """A reference of Barbican's: the address before ``/v1/KIND/UUID``, and the UUID."""

    base: str
    id: Version


def total(untrusted: object) -> int:
    """Return how long a list is, of which this is one page."""
    return untrusted_json.integer(
        untrusted_json.mapping(untrusted, "the list").get("total"), "total", _MAX_TOTAL
    )


def containers(untrusted: object, vps_id: str) -> list[Version]:
    """Return the containers of exactly this name in one page of a list."""
    page = untrusted_json.mapping(untrusted, "the list of containers")
    found = []
    for item in untrusted_json.array(page.get("containers"), "containers", _MAX_ITEMS):
        container = untrusted_json.mapping(item, "a container")
        if container.get("name") == vps_id:
            found.append(reference(container.get("container_ref"), "containers").id)
    return found


def named_containers(untrusted: object) -> list[tuple[str, Version]]:
    """Return the name and id of each container in one page of a list; one without a name has ""."""
    page = untrusted_json.mapping(untrusted, "the list of containers")
    items = untrusted_json.array(page.get("containers"), "containers", _MAX_ITEMS)
    found = [untrusted_json.mapping(item, "a container") for item in items]
    return [
        (
            untrusted_json.text(item.get("name") or "", "the name of a container", MAX_TEXT),
            reference(item.get("container_ref"), "containers").id,
        )
        for item in found
    ]


def readers(untrusted: object) -> list[str]:
    """Return the ids of the users whom an ACL lets read."""
    read = untrusted_json.mapping(untrusted_json.mapping(untrusted, "the ACL").get("read", {}), "read")
    users = untrusted_json.array(read.get("users", []), "users", _MAX_ITEMS)
    return [untrusted_json.text(user, "a user", MAX_TEXT) for user in users]


def container(untrusted: object, vps_id: str, version: Version) -> Listing:
    """Return what the container of a VPS lists."""
    members = untrusted_json.mapping(untrusted, "the container")
    own = reference(members.get("container_ref"), "containers")
    if own.id != version:
        raise ForeignError("it is about another container")
    if members.get("name") != vps_id:
        raise ForeignError(f"the container's name is not {vps_id}")
    listed = untrusted_json.array(members.get("secret_refs"), "secret_refs", MAX_ENTRIES)
    return Listing(
        frozenset(_entry(untrusted_json.mapping(item, "an entry"), vps_id, own.base) for item in listed),
        frozenset(url for url, _ in _consumers(members)),
    )


def consumer_names(untrusted: object, url: str) -> set[str]:
    """Return the names under which a URL is registered in a container."""
    return {
        name for found, name in _consumers(untrusted_json.mapping(untrusted, "the container")) if found == url
    }


def versions(untrusted: object, full_name: str, name: SecretName) -> frozenset[Made]:
    """Return the versions of exactly this name in one page of a list, without marks."""
    page = untrusted_json.mapping(untrusted, "the list of secrets")
    found = set()
    for item in untrusted_json.array(page.get("secrets"), "secrets", _MAX_ITEMS):
        secret = untrusted_json.mapping(item, "a secret")
        if secret.get("name") == full_name:
            ref = reference(secret.get("secret_ref"), "secrets")
            found.add(Made(name, ref.id, _time(secret.get("created")), None))
    return frozenset(found)


def marks(untrusted: object) -> Marks | None:
    """Return the marks in a secret's metadata, or None where they are none of ours."""
    members = untrusted_json.mapping(untrusted, "the metadata")
    found = untrusted_json.mapping(members.get("metadata"), "metadata")
    if not found.keys() <= _MARKS:
        return None
    words = {key: word for key, word in found.items() if isinstance(word, str) and _MARK.fullmatch(word)}
    slot = {"slot"} if found.get("slot") == "" else set()
    if words.keys() | slot != found.keys() or not {"rotation", "kind"} <= words.keys():
        return None
    sequence, key = words.get("sequence", ""), words.get("key", "")
    if bool(sequence) != bool(key) or (sequence and not _SEQUENCE.fullmatch(sequence)):
        return None
    return Marks(words["rotation"], words["kind"], words.get("slot", ""), int(sequence or 0), key)


def written(marked: Marks) -> dict[str, str]:
    """Return marks as metadata, which :func:`marks` reads.

    Raises:
        ValueError: a mark is no word of letters, digits, ``.``, ``_`` and ``-``: it could not be read again.
    """
    found = {"rotation": marked.rotation, "kind": marked.kind, "slot": marked.slot}
    metadata = {key: word for key, word in found.items() if word or key != "slot"}
    if marked.sequence:
        metadata |= {"sequence": str(marked.sequence), "key": marked.key}
    if not all(map(_MARK.fullmatch, metadata.values())):
        raise ValueError("a mark is no word")
    return metadata


def new_secret(untrusted: object) -> Reference:
    """Return the version that was made."""
    return reference(untrusted_json.mapping(untrusted, "the answer").get("secret_ref"), "secrets")


def any_base(untrusted: object) -> str | None:
    """Return the address that references have, from a list of secrets; None where the list is empty."""
    page = untrusted_json.mapping(untrusted, "the list of secrets")
    for item in untrusted_json.array(page.get("secrets"), "secrets", _MAX_ITEMS):
        return reference(untrusted_json.mapping(item, "a secret").get("secret_ref"), "secrets").base
    return None


def new_container(untrusted: object) -> Version:
    """Return the container that was made."""
    return reference(untrusted_json.mapping(untrusted, "the answer").get("container_ref"), "containers").id


def reference(untrusted: object, kind: str) -> Reference:
    """Return a reference ``…/v1/KIND/UUID``."""
    text = untrusted_json.text(untrusted, "a reference", _LONGEST_REFERENCE)
    base, separator, uuid = text.rpartition(f"/v1/{kind}/")
    version = parse_version(uuid)
    if not separator or version is None:
        raise MalformedError(f"a reference does not end in /v1/{kind}/ and a UUID")
    return Reference(base, version)


def _entry(entry: dict[str, object], vps_id: str, base: str) -> Entry:
    untrusted_name = entry.get("name")
    if untrusted_name is None:
        raise ForeignError("an entry has no name: remove it")
    if not isinstance(untrusted_name, str):
        raise MalformedError("the name of an entry is not a string")
    shown = untrusted_json.printable(untrusted_name, _SHOWN)
    parsed = parse_entry_name(vps_id, untrusted_name) if len(untrusted_name) <= _LONGEST_NAME else None
    if parsed is None:
        raise ForeignError(f"the entry {shown} is not one of {vps_id}: remove it")
    found = reference(entry.get("secret_ref"), "secrets")
    if found.base != base:
        raise ForeignError(f"the entry {shown} refers to another place than its container: remove it")
    return Entry(*parsed, found.id)


def _consumers(members: dict[str, object]) -> list[tuple[str, str]]:
    """Return URL and name of who has registered in a container."""
    listed = untrusted_json.array(members.get("consumers", []), "consumers", MAX_CONSUMERS)
    consumers = [untrusted_json.mapping(item, "a consumer") for item in listed]
    return [
        (
            untrusted_json.text(consumer.get("URL"), "the URL of a consumer", MAX_TEXT),
            untrusted_json.text(consumer.get("name"), "the name of a consumer", MAX_TEXT),
        )
        for consumer in consumers
    ]


def _time(untrusted: object) -> float:
    """Return a time of Barbican's, which is UTC whether it says so or not, as Unix time (s)."""
    text = untrusted_json.text(untrusted, "created", MAX_TEXT)
    try:
        if _TIME.fullmatch(text):
            return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()
    except ValueError:
        pass
    raise MalformedError("created is not a time")
