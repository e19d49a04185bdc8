"""Metadata and payload of new versions, through python-barbicanclient, a few at a time.

Imported only when there is something new. Each version costs two requests, or one where its metadata came in
the list; the payload is asked for as application/octet-stream, which Barbican answers for every secret byte
for byte, and which keystoneauth1 never writes to a log. The payload of a secret whose own name is not that of
its entry is not read. Every version that was wanted is in the outcome: read, or unread with a reason.
"""

from __future__ import annotations

import logging
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from barbicanclient.v1.secrets import SecretManager

from agent.core.errors import CloudError, Failure, Fault, Step
from agent.core.rotation import Unread
from agent.core.secret import SecretMetadata
from agent.core.wire_fields import CONTENT_TYPE_CHARACTERS
from agent.fetch import classify
from agent.fetch.metadata import MAX_LISTED, Api, read_list
from agent.fetch.outcome import Outcome, Unreadable, misnamed
from common import sealed, untrusted_json
from common.limits import MAX_PAYLOAD, MAX_PAYLOADS
from common.names import SecretName, Version, strip_prefix
from common.sealed import SealError
from common.untrusted_json import MalformedError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from agent.config.model import FetchSettings
    from agent.core.secret import Seal
    from agent.fetch.transport import Transport
    from agent.fetch.unsealing import Unsealer

LOG: Final = logging.getLogger("agent.fetch")
_OCTETS: Final = "application/octet-stream"
_MEDIA_TYPE: Final = re.compile(r"[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+(?:\s*;.*)?")  # RFC 6838, 4.2


@dataclass(frozen=True, slots=True)
class Source:
    """Where to read from, and for which VPS."""

    session: Any
    base: str
    vps_id: str
    transport: Transport
    settings: FetchSettings
    unsealer: Unsealer


type_of_one = tuple[SecretMetadata, bytes] | Unreadable


def read_payloads(source: Source, wanted: Mapping[Version, frozenset[SecretName]]) -> Outcome:
    """Read every wanted version; the names are those under which it is listed.

    Raises:
        CloudError: the service as a whole is away or refuses this account; no outcome is of use then.
    """
    api = Api(source.session, source.base)
    listed = _listed(source, api, wanted)
    secrets = SecretManager(api)
    with ThreadPoolExecutor(source.settings.threads, thread_name_prefix="payload") as pool:
        futures = {
            version: pool.submit(_try_one, source, secrets, (version, names), listed.metadata.get(version))
            for version, names in wanted.items()
        }
        outcome = Outcome(listed=listed.given, notices=listed.notices)
        for version, future in futures.items():
            result = future.result()
            if isinstance(result, Failure):
                pool.shutdown(wait=False, cancel_futures=True)
                raise CloudError(result)
            _add(outcome, version, result)
    return outcome


@dataclass(frozen=True, slots=True)
class _Listed:
    metadata: Mapping[Version, Any]
    given: bool | None
    notices: tuple[str, ...] = ()


def _listed(source: Source, api: Api, wanted: Collection[Version]) -> _Listed:
    """Return the metadata that the list gives, and whether Barbican gave it. One version is not worth it.

    Raises:
        CloudError: the service as a whole is away.
    """
    if not source.settings.list_metadata or len(wanted) == 1:
        return _Listed({}, None)
    try:
        found, total = read_list(api, wanted)
        return _Listed(found, given=True, notices=_beyond(len(wanted) - len(found), total))
    except Exception as error:  # noqa: BLE001  # as in _try_one
        failure = classify.failure(error, source.transport.answer)
    if failure.step is not Step.PERMISSION and _is_of_the_whole(failure):
        raise CloudError(failure)
    return _Listed({}, given=False)


def _beyond(missing: int, total: int) -> tuple[str, ...]:
    if not missing or total <= MAX_LISTED:
        return ()
    bound = f"Barbican lists {total} secrets, of which the newest {MAX_LISTED} were looked through"
    return (f"{bound}: the metadata of {missing} were asked for one by one",)


def _add(outcome: Outcome, version: Version, result: type_of_one) -> None:
    if isinstance(result, Unreadable):
        outcome.unread[version] = result
    elif sum(map(len, outcome.payloads.values())) + len(result[1]) > MAX_PAYLOADS:
        why = f"one cycle takes {MAX_PAYLOADS} bytes of payloads: it is for the next one"
        outcome.unread[version] = Unreadable(Unread.FAILED, why)
    else:
        outcome.read[version], outcome.payloads[version] = result


def _try_one(
    source: Source, secrets: Any, wanted: tuple[Version, frozenset[SecretName]], metadata: Any
) -> type_of_one | Failure:
    """Return the result for one version, or the failure that ends the cycle."""
    try:
        return _one(source, secrets, wanted, metadata)
    except Exception as error:  # noqa: BLE001  # two libraries over untrusted JSON: every error is translated
        failure = classify.failure(error, source.transport.answer)
    if failure.fault is Fault.DENIED and failure.status in {403, 404}:
        reason = Unread.ABSENT if failure.status == 404 else Unread.DENIED  # noqa: PLR2004  # HTTP
    elif _is_of_the_whole(failure):
        return failure
    else:
        reason = Unread.FAILED
    status = f"HTTP {failure.status}, " if failure.status is not None else ""
    return Unreadable(reason, f"{status}{failure.advice}")


def _is_of_the_whole(failure: Failure) -> bool:
    """Return whether the service is away or refuses this account, not one secret."""
    return failure.step not in {Step.BARBICAN, Step.FETCH} or failure.status in {429, 503}


def _one(
    source: Source, secrets: Any, wanted: tuple[Version, frozenset[SecretName]], metadata: Any
) -> type_of_one:
    version, names = wanted
    reference = f"{source.base}/v1/secrets/{version}"
    metadata = metadata or secrets.get(reference)
    untrusted_name = metadata.name  # this is the request for the metadata, where it was not listed
    if not isinstance(untrusted_name, str):
        raise MalformedError("the metadata have no name")
    name = strip_prefix(source.vps_id, untrusted_name)
    if name is None or name not in names:
        return Unreadable(Unread.FAILED, misnamed(source.vps_id, untrusted_name))
    created, expires = _time(metadata.created), _time(metadata.expiration)
    if created is None:
        raise MalformedError("the metadata have no creation time")
    if not metadata.content_types:
        return Unreadable(Unread.ABSENT, "its payload is not written yet")
    content_type = _content_type(metadata.content_types)
    # a second object, since the first has taken the metadata's content type over
    payload = secrets.get(reference, payload_content_type=_OCTETS).payload
    asked = source.transport.answer
    if payload is None:
        return Unreadable(Unread.ABSENT, "its payload is not written yet")
    if not isinstance(payload, bytes) or not payload:
        raise MalformedError("the payload is empty")
    if len(payload) > MAX_PAYLOAD:
        raise MalformedError(f"the payload has {len(payload)} bytes, and this agent takes {MAX_PAYLOAD}")
    opened = _opened(source, payload, name)
    if isinstance(opened, Unreadable):
        return opened
    value, seal = opened
    LOG.info("read %s: version %s, request %s", name, version, asked.request_id if asked else "of no id")
    return SecretMetadata(name, version, len(value), content_type, created, expires, seal), value


def _opened(source: Source, payload: bytes, name: SecretName) -> tuple[bytes, Seal | None] | Unreadable:
    """Return the value in a payload, and what its seal says where it has one."""
    if sealed.is_sealed(payload):
        try:
            return source.unsealer.open(payload, name)
        except SealError as error:
            return Unreadable(Unread.FAILED, str(error))
    if source.settings.require_sealed:
        return Unreadable(Unread.FAILED, "it is not sealed, and fetch.require_sealed takes no such value")
    return payload, None


def _content_type(untrusted: object) -> str:
    """Return the type that the payload was stored with, for people and applications."""
    stored = untrusted_json.mapping(untrusted, "content_types").get("default")
    text = untrusted_json.text(stored, "the content type", CONTENT_TYPE_CHARACTERS)
    if not _MEDIA_TYPE.fullmatch(text):
        raise MalformedError("the content type is none")
    return text


def _time(untrusted: object) -> float | None:
    """Return a time of barbicanclient's as Unix time (s)."""
    if untrusted is None:
        return None
    if not isinstance(untrusted, datetime):
        raise MalformedError("a time of a secret is none")
    return max(0.0, untrusted.timestamp())
