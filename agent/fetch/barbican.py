"""The container, read through a keystoneauth1 adapter: untrusted JSON to a checked listing.

The adapter and not barbicanclient, which lower-cases the names of entries and collapses double ones.
Of a reference only the UUID is used, whatever address it names: Barbican writes references with its
``host_href``, which may be another name of the same service. The secret is read at our endpoint and nowhere
else, and is taken only if its own name is that of its entry.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from keystoneauth1.adapter import Adapter

from agent.config import addresses
from agent.core.errors import CloudError, Failure, Fault, Step
from agent.core.rotation import Entry
from agent.core.wire import FOREIGN_CHARACTERS, MAX_ACKNOWLEDGED
from common import sealing_key, untrusted_json
from common.acknowledgement import CONSUMER, digest_of
from common.limits import MAX_SECRETS
from common.names import parse_entry_name, version_in
from common.untrusted_json import MalformedError

if TYPE_CHECKING:
    from agent.config.model import Config, Container


@dataclass(frozen=True, slots=True)
class Listing:
    """What the container lists: ``entries`` of this VPS, and what is not this VPS's, as text for people.

    ``acknowledged`` are the digests that consumers say, each once (common/acknowledgement.py), ``has_key``
    tells whether one says to which key values are to be sealed.
    """

    entries: tuple[Entry, ...]
    rejected: tuple[str, ...]
    acknowledged: tuple[str, ...] = ()
    has_key: bool = False


def base_of(untrusted_endpoint: str, auth_url: str) -> str:
    """Return the address of Barbican without its version, as the catalog or the configuration gives it.

    Raises:
        CloudError: it is no usable address, or would take the token from HTTPS to plain HTTP (step catalog).
    """
    address = addresses.barbican_of(untrusted_endpoint)
    if address is None:
        problem = "Barbican's endpoint is not an http or https address: the cloud's catalog is wrong"
    elif auth_url.startswith("https:") and address.scheme != "https":
        problem = "Keystone speaks HTTPS and Barbican's endpoint does not: a token is not sent in clear"
    else:
        return str(address)
    tried = "use the endpoint that Keystone's catalog gives for Barbican"
    raise CloudError(Failure(Step.CATALOG, Fault.TRANSIENT, tried, problem))


def read_listing(session: Any, base: str, config: Config) -> Listing:
    """Read the container once.

    Raises:
        CloudError, MalformedError, or an error of keystoneauth1 (see agent/fetch/classify.py).
    """
    adapter = Adapter(session, endpoint_override=f"{base}/v1")
    response = adapter.get(
        f"/containers/{config.container.id}", headers={"Accept": "application/json"}, log=False
    )
    return parse_listing(response.content, config.vps_id, config.container)


def parse_listing(untrusted: bytes, vps_id: str, container: Container) -> Listing:
    """Return the listing in a container's JSON.

    Whatever is not as documented fails the whole: an entry that was left out would be taken for removed.

    Raises:
        MalformedError: it is not the container asked for, or not as documented.
    """
    members = untrusted_json.mapping(untrusted_json.parse(untrusted, "the container"), "the container")
    if version_in(members.get("container_ref")) != container.id:
        raise MalformedError("the answer is about another container")
    listed = untrusted_json.array(members.get("secret_refs"), "secret_refs", len(untrusted))
    if len(listed) > MAX_SECRETS:
        raise MalformedError(
            f"the container lists {len(listed)} entries, and this agent takes {MAX_SECRETS}: remove some"
        )
    entries: dict[Entry, None] = {}
    rejected: list[str] = []
    for item in listed:
        entry = untrusted_json.mapping(item, "an entry")
        shown = _name(entry)
        parsed = parse_entry_name(vps_id, shown)
        if parsed is None:
            rejected.append(untrusted_json.printable(shown, FOREIGN_CHARACTERS))
            continue
        version = version_in(entry.get("secret_ref"))
        if version is None:
            raise MalformedError("the reference of one of this VPS's entries does not end in a UUID")
        name, k = parsed
        entries[Entry(name, version, k)] = None
    consumers = members.get("consumers")
    found = [one for one in consumers if isinstance(one, dict)] if isinstance(consumers, list) else []
    has_key = any(one.get("name") == sealing_key.CONSUMER for one in found)
    return Listing(tuple(entries), tuple(rejected), _acknowledged(found), has_key)


def _acknowledged(untrusted: list[dict[str, object]]) -> tuple[str, ...]:
    """Return what consumers say; whatever else they are, no secret depends on it."""
    digests: dict[str, None] = {}
    for consumer in untrusted:
        digest = digest_of(str(consumer.get("URL"))) if consumer.get("name") == CONSUMER else None
        if digest is not None:
            digests[digest] = None
    return tuple(digests)[:MAX_ACKNOWLEDGED]


def _name(entry: dict[str, object]) -> str:
    """Return the name of an entry; Barbican gives null for one that was added without a name."""
    name = entry.get("name", 0)
    if name is None:
        return "(entry without a name)"
    if not isinstance(name, str):
        raise MalformedError("the name of an entry is not a string")
    return name
