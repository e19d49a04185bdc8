"""What a sealed value looks like: a JWE in compact form (RFC 7516) to the one key of one VPS. Pure.

common/sealing.py seals and opens; here is what can be said without a key: whether a payload is sealed, and
what its protected header must be. That has, besides ``alg`` = ECDH-ES, ``enc`` = A256GCM and ``epk`` of the
curve X25519 (RFC 7518, RFC 8037):

* ``vps``, ``name``: whose value it is, and which. A value that was moved elsewhere does not fit any more.
* ``seq``: grows with every version of a name: milliseconds since 1970, or one more than the one before.
* ``floor``: versions of a lower ``seq`` are over. Where a value was compromised it is its own ``seq``: there
  is no former version. Else it is that of the oldest version that may be listed again; 0, which need not be
  said, where that is not known (docs/adr/0036).
* ``keep``: for how many seconds the agent serves the version before this one; optional.

Other members are ignored, as RFC 7516 wants, but for those that would change how it is opened: ``zip``,
``crit``, ``apu`` and ``apv`` are refused. Nothing that is raised here holds a part of what was read.
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass
from typing import Final, NamedTuple

from common import sealing_key, untrusted_json
from common.errors import VpsSecretsError
from common.names import SecretName, parse_name, parse_vps_id

ALG: Final = "ECDH-ES"
ENC: Final = "A256GCM"
CURVE: Final = "X25519"
MAX_SEALED: Final = 20_000
"""Bytes of a sealed value: what Barbican takes unless its operator changed it."""
MAX_HEADER: Final = 2048
"""Characters of the protected header as it stands in the JWE; the longest names fit."""
MAX_SEQUENCE: Final = 2**53 - 1
MAX_KEEP_S: Final = 7 * 86400
_IV_BYTES: Final = 12
_TAG_BYTES: Final = 16
_PARTS: Final = 5
_BASE64URL: Final = re.compile(rb"[A-Za-z0-9_-]*")
# eyJ is the beginning of {"; then five parts, or an empty second one, as ECDH-ES has it, and what is left
_FORM: Final = re.compile(rb"eyJ[A-Za-z0-9_-]*\.(?:[A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]*){3}|\.[A-Za-z0-9_.-]*)")
_REFUSED: Final = ("zip", "crit", "apu", "apv")


class SealError(VpsSecretsError):
    """A value can't be sealed, or a sealed one is not taken: the rule, never a part of the value."""


@dataclass(frozen=True, slots=True)
class Header:
    """What is bound to a sealed value."""

    vps_id: str
    name: SecretName
    sequence: int
    floor: int = 0
    keep_s: int | None = None


class Parts(NamedTuple):
    """A sealed value taken apart. ``protected`` is the header as it stands there, which the tag covers."""

    header: Header
    ephemeral: bytes
    protected: bytes
    iv: bytes
    ciphertext: bytes
    tag: bytes


def is_sealed(payload: bytes) -> bool:
    """Tell whether a payload is in the form of a JWE, or begins so: then it is opened or refused.

    It is never served as it is. A signed token (JWS) is none: it has three parts, and none is empty.
    """
    return _FORM.fullmatch(payload) is not None


def most_bytes(header: Header) -> int:
    """Return how long a value may be that is sealed under this header: 14,765 bytes, less for long names."""
    protected = -(-len(encode(header, bytes(sealing_key.KEY_BYTES))) * 4 // 3)
    rest = MAX_SEALED - protected - (_PARTS - 1) - len(b64(bytes(_IV_BYTES))) - len(b64(bytes(_TAG_BYTES)))
    return min(14_765, rest * 3 // 4)


def encode(header: Header, ephemeral: bytes) -> bytes:
    """Return the protected header as JSON.

    Raises:
        SealError: it is not one that :func:`take_apart` would take.
    """
    members: dict[str, object] = {
        "alg": ALG,
        "enc": ENC,
        "epk": {"crv": CURVE, "kty": "OKP", "x": sealing_key.encoded(ephemeral)},
        "vps": header.vps_id,
        "name": header.name,
        "seq": header.sequence,
    }
    if header.floor:
        members["floor"] = header.floor
    if header.keep_s is not None:
        members["keep"] = header.keep_s
    _checked(members)
    return json.dumps(members, separators=(",", ":")).encode("ascii")


def take_apart(untrusted: bytes) -> Parts:
    """Return the parts of a sealed value, its header checked; whether it is authentic, only a key can tell.

    Raises:
        SealError: it breaks a rule.
    """
    if len(untrusted) > MAX_SEALED:
        raise SealError(f"it is longer than {MAX_SEALED} bytes")
    parts = untrusted.split(b".", _PARTS)
    if len(parts) != _PARTS:
        raise SealError("it has not the five parts of a JWE: it is truncated")
    protected, key, iv, ciphertext, tag = parts
    if len(protected) > MAX_HEADER:
        raise SealError(f"its header is longer than {MAX_HEADER} characters")
    if key:
        raise SealError("it has an encrypted key, which ECDH-ES has not")
    members = _members(_decoded(protected, "its header"))
    header, ephemeral = _checked(members)
    iv, tag = _decoded(iv, "its initialization vector"), _decoded(tag, "its tag")
    if len(iv) != _IV_BYTES or len(tag) != _TAG_BYTES:
        raise SealError("its initialization vector or its tag has another length: it is truncated")
    return Parts(header, ephemeral, protected, iv, _decoded(ciphertext, "its ciphertext"), tag)


def b64(content: bytes) -> bytes:
    """Return base64url without padding."""
    return base64.urlsafe_b64encode(content).rstrip(b"=")


def _decoded(untrusted: bytes, what: str) -> bytes:
    if len(untrusted) % 4 != 1 and _BASE64URL.fullmatch(untrusted):
        content = base64.urlsafe_b64decode(untrusted + b"=" * (-len(untrusted) % 4))
        if b64(content) == untrusted:  # no bits left over
            return content
    raise SealError(f"{what} is not base64url")


def _members(content: bytes) -> dict[str, object]:
    problem = ""
    try:
        return untrusted_json.mapping(untrusted_json.parse(content, "its header"), "its header")
    except untrusted_json.MalformedError as error:
        problem = str(error)
    raise SealError(problem)


def _checked(members: dict[str, object]) -> tuple[Header, bytes]:
    """Return what a header says, and the ephemeral key.

    Raises:
        SealError: it breaks a rule.
    """
    for refused in _REFUSED:
        if refused in members:
            raise SealError(f"its header has {refused}, which is not taken")
    for fixed, only in (("alg", ALG), ("enc", ENC)):
        if members.get(fixed) != only:
            raise SealError(f"its {fixed} is not {only}")
    ephemeral = _ephemeral(members.get("epk"))
    vps_id, name = members.get("vps"), members.get("name")
    parsed_id = parse_vps_id(vps_id) if isinstance(vps_id, str) else None
    parsed = parse_name(name) if isinstance(name, str) else None
    if parsed_id is None or parsed is None:
        raise SealError("its header does not say of which VPS and name it is")
    problem = ""
    try:
        sequence = untrusted_json.integer(members.get("seq"), "seq of its header", MAX_SEQUENCE)
        floor = untrusted_json.integer(members.get("floor", 0), "floor of its header", sequence)
        keep = members.get("keep")
        keep_s = None if keep is None else untrusted_json.integer(keep, "keep of its header", MAX_KEEP_S)
        return Header(parsed_id, parsed, sequence, floor, keep_s), ephemeral
    except untrusted_json.MalformedError as error:
        problem = str(error)
    raise SealError(problem)


def _ephemeral(untrusted: object) -> bytes:
    if isinstance(untrusted, dict) and untrusted.keys() == {"crv", "kty", "x"}:
        x = untrusted["x"]
        key = sealing_key.decoded(x) if isinstance(x, str) else None
        if (untrusted["crv"], untrusted["kty"]) == (CURVE, "OKP") and key is not None:
            return key
    raise SealError(f"its ephemeral key is not one of {CURVE}")
