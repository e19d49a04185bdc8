"""The container, read through a keystoneauth1 adapter: untrusted JSON to a checked listing.

The adapter and not barbicanclient, which lower-cases the names of entries and collapses double ones.
Only the UUID of a reference is ever used, never its address. A new version whose reference points elsewhere
than to this Barbican is nevertheless not requested: it is listed, reported and left unread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

from keystoneauth1.adapter import Adapter

from agent.core.errors import CloudError, Failure, Fault, Step
from agent.core.rotation import Entry
from agent.core.wire import FOREIGN_CHARACTERS
from common import untrusted_json
from common.limits import MAX_SECRETS
from common.names import Version, parse_version, strip_prefix
from common.places import DEFAULT_PORTS
from common.untrusted_json import MalformedError

if TYPE_CHECKING:
    from agent.config.model import Config, Container


@dataclass(frozen=True, slots=True)
class Listing:
    """What the container lists: ``entries`` of this VPS, and what is refused, as text for people.

    ``elsewhere`` are listed versions whose reference is not one of this Barbican.
    """

    entries: tuple[Entry, ...]
    elsewhere: frozenset[Version]
    rejected: tuple[str, ...]

    def has_double(self) -> bool:
        """Tell whether a name stands there twice: a rotation is under way."""
        return len({entry.name for entry in self.entries}) < len(self.entries)


def base_of(untrusted_endpoint: str, auth_url: str) -> str:
    """Return the address of Barbican without its version, as the catalog or the configuration gives it.

    Raises:
        CloudError: it is no usable address, or would take the token from HTTPS to plain HTTP (step catalog).
    """
    parts = _split(untrusted_endpoint)
    if parts is None or parts.query or parts.fragment or "@" in parts.netloc:
        problem = "Barbican's endpoint is not an http or https address: the cloud's catalog is wrong"
    elif urlsplit(auth_url).scheme == "https" and parts.scheme != "https":
        problem = "Keystone speaks HTTPS and Barbican's endpoint does not: a token is not sent in clear"
    else:
        return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/').removesuffix('/v1')}"
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
    return parse_listing(response.content, base, config.vps_id, config.container)


def parse_listing(untrusted: bytes, base: str, vps_id: str, container: Container) -> Listing:
    """Return the listing in a container's JSON.

    Raises:
        MalformedError: it is not the container asked for, or not as documented.
    """
    members = untrusted_json.mapping(untrusted_json.parse(untrusted, "the container"), "the container")
    if _last_segment(members.get("container_ref")) != container.id:
        raise MalformedError("the answer is about another container")
    places = _places(base, container)
    entries: dict[Entry, None] = {}
    elsewhere: set[Version] = set()
    rejected: list[str] = []
    for item in untrusted_json.array(members.get("secret_refs"), "secret_refs", MAX_SECRETS):
        entry = untrusted_json.mapping(item, "an entry")
        untrusted_name = entry.get("name")
        shown = untrusted_name if isinstance(untrusted_name, str) else "(entry without a name)"
        version = parse_version(_last_segment(entry.get("secret_ref")))
        name = strip_prefix(vps_id, shown)
        if name is None:
            rejected.append(untrusted_json.printable(shown, FOREIGN_CHARACTERS))
            continue
        if version is None:
            raise MalformedError("a reference does not end in a UUID")
        entries[Entry(name, version)] = None
        if _place(entry.get("secret_ref"), f"/secrets/{version}") not in places:
            elsewhere.add(version)
            rejected.append(_elsewhere(shown))
    return Listing(tuple(entries), frozenset(elsewhere), tuple(rejected))


def _elsewhere(name: str) -> str:
    return untrusted_json.printable(f"{name} (its reference points to another address)", FOREIGN_CHARACTERS)


def _places(base: str, container: Container) -> set[tuple[str, str | None, int, str] | None]:
    """Return where references may point: this endpoint, and where the operator's own reference points.

    Barbican writes references with its ``host_href``, which need not be the catalog's address.
    """
    places = {_place(f"{base}/v1", "")}
    if container.reference is not None:
        places.add(_place(container.reference, f"/containers/{container.id}"))
    return places - {None}


def _place(untrusted_url: object, ending: str) -> tuple[str, str | None, int, str] | None:
    """Return scheme, host, port and path before ``ending``, or None where it is not such a URL."""
    parts = _split(untrusted_url)
    if (
        parts is None
        or parts.query
        or parts.fragment
        or "@" in parts.netloc
        or not parts.path.endswith(ending)
    ):
        return None
    port = parts.port or DEFAULT_PORTS[parts.scheme]
    return parts.scheme, parts.hostname, port, parts.path.removesuffix(ending)


def _split(untrusted_url: object) -> SplitResult | None:
    """Return an http or https URL in its parts."""
    if not isinstance(untrusted_url, str) or not untrusted_url.isprintable():
        return None
    try:
        parts = urlsplit(untrusted_url)
        usable = parts.scheme in DEFAULT_PORTS and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return None
    return parts if usable else None


def _last_segment(untrusted_url: object) -> str:
    return untrusted_url.rpartition("/")[2] if isinstance(untrusted_url, str) else ""
