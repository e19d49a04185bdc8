"""What is fuzzed: a reader, the sentence that holds for whatever it gets, and a few inputs to begin with.

A target runs one input. It returns whether the input was taken; it raises where the sentence does not hold.
What a reader refuses, it refuses with its own error, whose words have nothing of the input that is not
printable and short: that holds for all of them.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import h11
import httptools

from agent.config import reader
from agent.config.model import Container
from agent.core import http, wire, wire_watch
from agent.core.errors import Failure, Fault, RequestError, Step, WireError
from agent.core.rotation import Entry, Reading
from agent.core.secret import Remarks, SecretMetadata
from agent.fetch.barbican import parse_listing
from agent.serve.endpoints import credentials
from agent.serve.store import index
from agent.serve.store.memory_file import AdoptionError
from common import sealed, sealing
from common.errors import ConfigurationError, VpsSecretsError
from common.names import SecretName, Version, parse_name
from common.untrusted_json import MalformedError
from deployer.api import contract
from deployer.api.problems import RequestError as ApiRequestError
from deployer.cli import dotenv
from deployer.cloud import barbican_answers
from deployer.cloud.errors import ForeignError
from deployer.config.zones import zone
from deployer.core import backup_format, blueprint
from deployer.core.backup_format import RefusedBackupError

if TYPE_CHECKING:
    from collections.abc import Callable

VPS: Final = "vps-1"
ID: Final = "11111111-1111-4111-8111-111111111111"
VERSION: Final = Version("21111111-1111-4111-8111-111111111111")
REF: Final = f"https://b.example/v1/secrets/{VERSION}"
NONCE: Final = "0" * 32
LONGEST_WORDS: Final = 20_000
CONTAINER: Final[dict[str, Any]] = {
    "container_ref": f"https://b.example/v1/containers/{ID}",
    "name": VPS,
    "type": "generic",
    "status": "ACTIVE",
    "created": "2026-01-01T00:00:00",
    "updated": "2026-01-01T00:00:00",
    "secret_refs": [{"name": f"{VPS}/A", "secret_ref": REF}, {"name": f"{VPS}/A~2", "secret_ref": REF}],
    "consumers": [],
}


@dataclass(frozen=True)
class Target:
    """One reader. ``run`` returns whether it took the input."""

    name: str
    sentence: str
    run: Callable[[bytes], bool]
    seeds: tuple[bytes, ...]


def _refused(error: VpsSecretsError | ConfigurationError) -> bool:
    """Return False, and hold what every refusal promises."""
    words = str(error)
    if len(words) > LONGEST_WORDS or any(not (each.isprintable() or each == "\n") for each in words):
        raise AssertionError("a refusal has words that are too long, or not printable")
    return False


def _hold(holds: bool, sentence: str) -> None:  # noqa: FBT001  # reads as a sentence
    if not holds:
        raise AssertionError(sentence)


def _by_h11(head: bytes) -> bool:
    connection = h11.Connection(h11.SERVER)
    try:
        connection.receive_data(head)
        return isinstance(connection.next_event(), h11.Request)
    except h11.RemoteProtocolError:
        return False


def _by_llhttp(head: bytes) -> bool:
    try:
        httptools.HttpRequestParser(object()).feed_data(head)
    except httptools.HttpParserUpgrade:
        return True
    except httptools.HttpParserError:
        return False
    return True


def _http(data: bytes) -> bool:
    try:
        end = http.head_end(data, 8192)
        if not end:
            return False
        request = http.parse(data[:end])
    except RequestError as error:
        return _refused(error)
    texts = [request.method, request.target, *request.fields, *request.fields.values()]
    _hold(not any(mark in text for text in texts for mark in "\r\n\0"), "a part has an end of line")
    _hold(_by_h11(data[:end]) or _by_llhttp(data[:end]), "h11 and llhttp both refuse it")
    return True


def _address(data: bytes) -> bool:
    asked = credentials.asked_by(data)
    if asked is None:
        return False
    _hold(data[:1] == b"\0", "an address of the file system was taken")
    _hold(b"/" not in asked.credential.encode(), "the credential's name has a slash")
    return True


def _message(bounds: wire.Bounds, data: bytes) -> bytes:
    """Return what a fuzzer can't guess, around what it wrote: lengths, and a digest that is right.

    What has no zero byte behind its header is taken as it is, so framing is tried, too.
    """
    header, zero, body = data.partition(b"\0")
    if not zero or data.startswith(wire.MAGIC):
        return data
    prefix = wire._PREFIX.pack(wire.MAGIC, bounds.kind, len(header), len(body))  # noqa: SLF001
    message = prefix + header + body
    return message + hashlib.sha256(message).digest()


def _opened(message: bytes, bounds: wire.Bounds) -> bytes:
    """Return a message as a seed of :func:`_message`."""
    return b"\0".join(wire.unframe(message, bounds))


def _request(data: bytes) -> bool:
    try:
        found = wire.decode_request(_message(wire.REQUEST, data))
    except WireError as error:
        return _refused(error)
    _hold(wire.decode_request(wire.encode_request(found)) == found, "what was read is not what is written")
    return True


ASKED: Final = wire.Request(NONCE, frozenset({VERSION}), reads_doubles=True, timeout=10.0)


def _reply(data: bytes) -> bool:
    try:
        found = wire.decode_reply(_message(wire.REPLY, data), ASKED, VPS, ID)
    except WireError as error:
        return _refused(error)
    _hold((found.vps_id, found.container, found.nonce) == (VPS, ID, NONCE), "it is of another VPS or cycle")
    _hold((found.reading is None) != (found.failure is None), "it is not one of reading and failure")
    _hold(not found.payloads.keys() & ASKED.known, "what is known was taken again")
    return True


def _watch(data: bytes) -> bool:
    try:
        found = wire_watch.decode_watch(_message(wire_watch.WATCH, data))
    except WireError as error:
        return _refused(error)
    _hold(wire_watch.decode_watch(wire_watch.encode_watch(found)) == found, "it is not what is written")
    return True


FOLDER: Final = tempfile.TemporaryDirectory(prefix="fuzz-")
FILE: Final = Path(FOLDER.name) / "fuzzed.toml"


def _configuration(data: bytes) -> bool:
    FILE.write_bytes(data)
    try:
        found = reader.load(FILE)
    except ConfigurationError as error:
        return _refused(error)
    _hold(all(rule.user or rule.group or rule.unit for rule in found.grants), "a grant is for everybody")
    return True


def _listing(data: bytes) -> bool:
    try:
        found = parse_listing(data, VPS, Container(ID, None))
    except MalformedError as error:
        return _refused(error)
    names = {entry.name for entry in found.entries}
    _hold(all(parse_name(name) is not None for name in names), "an entry's name is none")
    return True


def _deployer_container(data: bytes) -> bool:
    try:
        found = barbican_answers.container(json.loads(data), VPS, Version(ID))
    except (MalformedError, ForeignError) as error:
        return _refused(error)
    except (ValueError, RecursionError):
        return False
    _hold(all(parse_name(entry.name) is not None for entry in found.entries), "an entry's name is none")
    return True


def _versions(data: bytes) -> bool:
    try:
        found = barbican_answers.versions(json.loads(data), f"{VPS}/A", SecretName("A"))
    except (MalformedError, ForeignError) as error:
        return _refused(error)
    except (ValueError, RecursionError):
        return False
    _hold(all(one.name == "A" for one in found), "a version of another name was taken")
    return True


OWNER: Final = index.Owner(VPS, ID, "boot")


def _index(data: bytes) -> bool:
    try:
        found = index.decode(OWNER, data, [5])
    except AdoptionError as error:
        return _refused(error)
    again = index.decode(OWNER, index.encode(OWNER, found), [5])
    _hold(again == found, "what was adopted is not what is written")
    _hold(sum(one.size for one in found.facts) <= 5, "it is larger than its file")  # noqa: PLR2004
    return True


def _blueprint(data: bytes) -> bool:
    try:
        found = blueprint.parse(data, Path("fuzzed.toml"), zone)
    except ConfigurationError as error:
        return _refused(error)
    _hold(len(found.secrets) <= blueprint.MAX_NAMES, "it has more names than a container can list")
    _hold(all(parse_name(name) is not None for name in found.secrets), "a name is none")
    return True


def _dotenv(data: bytes) -> bool:
    found = dotenv.parse(data)
    words = "".join((*found.mistakes, *found.warnings))
    _hold(words.isprintable() or not words, "a remark is not printable")
    _hold(all(parse_name(name) is not None for name in found.values), "a name is none")
    return bool(found.values) and not found.mistakes


def _backup(data: bytes) -> bool:
    try:
        found = backup_format.decode(data)
    except RefusedBackupError as error:
        return _refused(error)
    _hold(backup_format.decode(backup_format.encode(found)) == found, "it is not what is written")
    return True


SEALING_KEY: Final = sealing.new_key()
SEALED: Final = sealing.seal(b"value", SEALING_KEY[1], sealed.Header(VPS, SecretName("A"), 1))


def _sealed(data: bytes) -> bool:
    try:
        sealed.take_apart(data)
        taken = True
    except sealed.SealError as error:
        taken = _refused(error)
    try:
        plain, header = sealing.unseal(data, (SEALING_KEY[0],), VPS, "A")
    except sealed.SealError as error:
        _refused(error)
        return taken
    _hold((plain, header.vps_id, header.name) == (b"value", VPS, "A"), "what nobody sealed was opened")
    return True


OPERATIONS: Final = tuple(each for each in contract.Routes().operations if each.body is not None)


def _body(data: bytes) -> bool:
    taken = False
    for operation in OPERATIONS:
        try:
            found = operation.read_body(data)
        except ApiRequestError as error:
            _refused(error)
            continue
        _hold(isinstance(found, dict), "a body is no object")
        taken = True
    return taken


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


_FACTS: Final = SecretMetadata(SecretName("A"), VERSION, 5, "text/plain", 1000.0, None)
_OTHER: Final = Version("31111111-1111-4111-8111-111111111111")
_TIMES: Final = dict.fromkeys(wire.PHASES, 0.0)
_FAILED: Final = wire.Reply(
    NONCE, VPS, ID, None, Failure(Step.TLS, Fault.TRANSIENT, "x", "y"), timings=_TIMES
)
_READ: Final = wire.Reply(
    NONCE,
    VPS,
    ID,
    Reading((Entry(SecretName("A"), _OTHER, 0),), {_OTHER: replace(_FACTS, version=_OTHER)}),
    None,
    {_OTHER: b"value"},
    timings=_TIMES,
)
_HEAD: Final = b"GET /v1/secrets/A?version=previous HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
TARGETS: Final = (
    Target(
        "http",
        "a head that the doors take is one request to h11 or llhttp, and no part of it ends a line",
        _http,
        (_HEAD, b"POST /v1/refresh HTTP/1.0\r\nContent-Length: 0\r\n\r\n"),
    ),
    Target(
        "credentials-address",
        "only an abstract address in systemd's form asks for a credential",
        _address,
        (b"\0" + b"a1b2c3d4e5f6a7b8/unit/app.service/NAME", b"\0" + b"0" * 16 + b"/unit/a@b.service/A.B"),
    ),
    Target(
        "wire-request",
        "what fetch takes from serve is what serve would write",
        _request,
        (
            wire.encode_request(ASKED),
            _opened(wire.encode_request(replace(ASKED, token_state=b"token")), wire.REQUEST),
        ),
    ),
    Target(
        "wire-reply",
        "what serve takes from fetch is of its VPS and cycle, a reading or a failure, and nothing known",
        _reply,
        (_opened(wire.encode_reply(_FAILED), wire.REPLY), _opened(wire.encode_reply(_READ), wire.REPLY)),
    ),
    Target(
        "wire-watch",
        "what the watching process takes is what serve would write",
        _watch,
        (
            _opened(
                wire_watch.encode_watch(wire_watch.Watch(NONCE, None, 30.0, 0.0, b"token")), wire_watch.WATCH
            ),
        ),
    ),
    Target(
        "configuration",
        "a configuration is taken whole, with no grant for everybody, or its mistakes are told",
        _configuration,
        (
            f'vps_id = "{VPS}"\ncontainer = "{ID}"\n[keystone]\nauth_url = "https://k.example/v3"\n'
            f'application_credential_id = "{"0" * 32}"\n[[grant]]\nuser = "root"\nsecrets = ["*"]\n'.encode(),
        ),
    ),
    Target(
        "container",
        "a container's JSON gives the agent entries of its own VPS only, or one error",
        _listing,
        (_json(CONTAINER),),
    ),
    Target(
        "container-deployer",
        "and the deployer as well",
        _deployer_container,
        (_json(CONTAINER),),
    ),
    Target(
        "secrets",
        "a list of secrets gives the versions of exactly one name, or one error",
        _versions,
        (
            _json(
                {
                    "secrets": [
                        {
                            "name": f"{VPS}/A",
                            "secret_ref": REF,
                            "created": "2026-01-01T00:00:00",
                            "content_types": {},
                        }
                    ],
                    "total": 1,
                }
            ),
        ),
    ),
    Target(
        "memory-index",
        "what the former process left is adopted as it was written, or refused whole",
        _index,
        (
            index.encode(
                OWNER,
                index.Index(1, 1, {SecretName("A"): 1}, Remarks(), (_FACTS,), ()),
            ),
        ),
    ),
    Target(
        "sealed-value",
        "what is opened was sealed, for this VPS and name; all else is refused",
        _sealed,
        (SEALED,),
    ),
    Target(
        "blueprint",
        "a blueprint is taken whole, with names that can be listed, or its mistakes are told",
        _blueprint,
        (
            b'[A]\nkind = "random"\nrotate = "30d"\nwindow = "02:00-05:00 UTC"\n',
            (
                b'[A]\nkind = "postgresql"\nserver = "db"\nroles = ["a", "b"]\n'
                b'template = "{role}:{password}"\nrotate = "1d"\n'
            ),
            (
                b'[A]\nkind = "command"\ncommand = "/bin/x"\nrotate = "1d"\n'
                b'[B]\nkind = "external"\nrotate = "never"\n'
            ),
        ),
    ),
    Target(
        "dotenv",
        "a .env file gives names that secrets can have, or remarks without a word of a value",
        _dotenv,
        (b"export A='b c'\nB=\"x\\ny\" # c\r\nC: d\n", b"\xef\xbb\xbfA=`b`\n"),
    ),
    Target(
        "backup",
        "a backup is read as it would be written, or refused",
        _backup,
        (backup_format.encode(backup_format.Backup(ID, 1.0, "https://b.example/v1", {}, None, ())),),
    ),
    Target(
        "api-body",
        "a body is an object of its contract, or refused without a word of it",
        _body,
        (b'{"reason": "r", "names": ["A"]}', b'{"blueprint": "b", "labels": {"a": "b"}, "wave": 1}'),
    ),
)
