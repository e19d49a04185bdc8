"""Metadata and payload of new versions, through python-barbicanclient, a few at a time.

Imported only when there is something new. Each version costs two requests, or one where its metadata came in
the list; the payload is asked for as application/octet-stream, which Barbican answers for every secret byte
for byte, and which keystoneauth1 never writes to a log. The payload of a secret whose own name is not that of
its entry is not read.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from barbicanclient.v1.secrets import SecretManager

from agent.core.errors import CloudError, Failure, Fault, Step
from agent.core.rotation import Unread
from agent.core.secret import SecretMetadata
from agent.core.wire_fields import CONTENT_TYPE_CHARACTERS
from agent.fetch import classify
from agent.fetch.metadata import Api, read_list
from common import untrusted_json
from common.limits import MAX_PAYLOAD, MAX_PAYLOADS
from common.names import SecretName, Version, strip_prefix
from common.untrusted_json import MalformedError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from agent.config.model import FetchSettings
    from agent.fetch.transport import Transport

_OCTETS: Final = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of each version that was tried; ``misnamed`` are secrets with another name, for people.

    ``listed`` tells whether Barbican gave the list of metadata, None where it was not asked for.
    """

    read: dict[Version, SecretMetadata] = field(default_factory=dict)
    payloads: dict[Version, bytes] = field(default_factory=dict, repr=False)
    unread: dict[Version, Unread] = field(default_factory=dict)
    misnamed: dict[Version, str] = field(default_factory=dict)
    listed: bool | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """Where to read from, and for which VPS."""

    session: Any
    base: str
    vps_id: str
    transport: Transport
    settings: FetchSettings


@dataclass(frozen=True, slots=True)
class _Misnamed:
    shown: str


type_of_one = tuple[SecretMetadata, bytes] | Unread | _Misnamed


def read_payloads(source: Source, wanted: Mapping[Version, frozenset[SecretName]]) -> Outcome:
    """Read every wanted version; the names are those under which it is listed.

    Raises:
        CloudError: the service as a whole is away or refuses this account; no outcome is of use then.
    """
    api = Api(source.session, source.base)
    metadata, listed = _listed(source, api, wanted)
    secrets = SecretManager(api)
    with ThreadPoolExecutor(source.settings.threads, thread_name_prefix="payload") as pool:
        futures = {
            version: pool.submit(_try_one, source, secrets, (version, names), metadata.get(version))
            for version, names in wanted.items()
        }
        outcome = Outcome(listed=listed)
        for version, future in futures.items():
            result = future.result()
            if isinstance(result, Failure):
                pool.shutdown(wait=False, cancel_futures=True)
                raise CloudError(result)
            _add(outcome, version, result)
    return outcome


def _listed(source: Source, api: Api, wanted: Collection[Version]) -> tuple[dict[Version, Any], bool | None]:
    """Return the metadata that the list gives, and whether Barbican gave it. One version is not worth it.

    Raises:
        CloudError: the service as a whole is away.
    """
    if not source.settings.list_metadata or len(wanted) == 1:
        return {}, None
    try:
        return read_list(api, wanted), True
    except Exception as error:  # noqa: BLE001  # as in _try_one
        failure = classify.failure(error, source.transport)
    if failure.step is not Step.PERMISSION and _is_of_the_whole(failure):
        raise CloudError(failure)
    return {}, False


def _add(outcome: Outcome, version: Version, result: type_of_one) -> None:
    if isinstance(result, Unread):
        outcome.unread[version] = result
    elif isinstance(result, _Misnamed):
        outcome.misnamed[version] = result.shown
    elif sum(map(len, outcome.payloads.values())) + len(result[1]) > MAX_PAYLOADS:
        outcome.unread[version] = Unread.FAILED
    else:
        outcome.read[version], outcome.payloads[version] = result


def _try_one(
    source: Source, secrets: Any, wanted: tuple[Version, frozenset[SecretName]], metadata: Any
) -> type_of_one | Failure:
    """Return the result for one version, or the failure that ends the cycle."""
    try:
        return _one(source, secrets, wanted, metadata)
    except Exception as error:  # noqa: BLE001  # two libraries over untrusted JSON: every error is translated
        failure = classify.failure(error, source.transport)
    if failure.fault is Fault.DENIED and failure.status in {403, 404}:
        return Unread.ABSENT if failure.status == 404 else Unread.DENIED  # noqa: PLR2004  # HTTP
    return failure if _is_of_the_whole(failure) else Unread.FAILED


def _is_of_the_whole(failure: Failure) -> bool:
    """Tell whether the service is away or refuses this account, not one secret."""
    return failure.step not in {Step.BARBICAN, Step.FETCH} or failure.status in {429, 503}


def _one(
    source: Source, secrets: Any, wanted: tuple[Version, frozenset[SecretName]], metadata: Any
) -> type_of_one:
    version, names = wanted
    reference = f"{source.base}/v1/secrets/{version}"
    metadata = metadata or secrets.get(reference)
    untrusted_name = metadata.name  # this is the request for the metadata, where it was not listed
    name = strip_prefix(source.vps_id, untrusted_name) if isinstance(untrusted_name, str) else None
    if name is None or name not in names:
        return _Misnamed(untrusted_json.printable(str(untrusted_name), 100))
    if not metadata.content_types:
        return Unread.ABSENT  # created, its payload not yet written
    created, expires = _time(metadata.created), _time(metadata.expiration)
    if created is None:
        raise MalformedError("a secret has no creation time")
    content_type = untrusted_json.printable(
        str(metadata.content_types.get("default")), CONTENT_TYPE_CHARACTERS
    )
    # a second object, since the first has taken the metadata's content type over
    payload = secrets.get(reference, payload_content_type=_OCTETS).payload
    if payload is None:
        return Unread.ABSENT
    if not isinstance(payload, bytes) or not 0 < len(payload) <= MAX_PAYLOAD:
        raise MalformedError("a payload is empty or too large")
    return SecretMetadata(name, version, len(payload), content_type, created, expires), payload


def _time(untrusted: object) -> float | None:
    """Return a time of barbicanclient's as Unix time (s)."""
    if untrusted is None:
        return None
    if not isinstance(untrusted, datetime):
        raise MalformedError("a time of a secret is none")
    return max(0.0, untrusted.timestamp())
