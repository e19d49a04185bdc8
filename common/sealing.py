"""Seals a value to the key of one VPS, and opens it there: ECDH-ES with X25519 and A256GCM, nothing else.

The form, and what the header binds, is in common/sealed.py. This module needs ``cryptography``, and is
imported only where a sealed value is at hand, by fetch and by the worker, never by serve. Sealing does not
say who sealed: whoever knows the public key can. It says who can open.

Standards: RFC 7516 (JWE), RFC 7518 4.6 (ECDH-ES: the Concat KDF, one round of SHA-256), RFC 8037 (X25519).
"""

from __future__ import annotations

import hashlib
import os
import struct
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from common import sealed
from common.sealed import Header, SealError

if TYPE_CHECKING:
    from collections.abc import Sequence

_KEY_BITS: Final = 256
_IV_BYTES: Final = 12
_TAG_BYTES: Final = 16


def new_key() -> tuple[bytes, bytes]:
    """Return a new private key and its public one, 32 bytes each."""
    private = X25519PrivateKey.generate()
    return _private_bytes(private), public_of(_private_bytes(private))


def public_of(private: bytes) -> bytes:
    """Return the public key of a private one, 32 bytes each."""
    # not loaded to open a value: it takes as long as all the rest of the library (Debian 13)
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat  # noqa: PLC0415

    key = X25519PrivateKey.from_private_bytes(private).public_key()
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def seal(plain: bytes | bytearray | memoryview, public: bytes, header: Header) -> bytes:
    """Return a value sealed to a public key (32 bytes), as a JWE in compact form.

    Raises:
        SealError: it is empty or too long, the header is none, or the key is of no use.
    """
    most = sealed.most_bytes(header)
    if not 0 < len(plain) <= most:
        raise SealError(f"a value of 1 to {most} bytes can be sealed, and this one has {len(plain)}")
    ephemeral = X25519PrivateKey.generate()
    protected = sealed.b64(sealed.encode(header, public_of(_private_bytes(ephemeral))))
    key, iv = _agreed(ephemeral, public), os.urandom(_IV_BYTES)
    content = AESGCM(key).encrypt(iv, bytes(plain), protected)
    ciphertext, tag = content[:-_TAG_BYTES], content[-_TAG_BYTES:]
    return b".".join((protected, b"", sealed.b64(iv), sealed.b64(ciphertext), sealed.b64(tag)))


def unseal(untrusted: bytes, private: Sequence[bytes], vps_id: str, name: str) -> tuple[bytes, Header]:
    """Return the value of this VPS and name, and its header; of several keys one has to fit.

    Raises:
        SealError: it is another VPS's or name's, sealed to another key, or damaged.
    """
    plain, header, _ = unseal_by(untrusted, private, vps_id, name)
    return plain, header


def unseal_by(
    untrusted: bytes, private: Sequence[bytes], vps_id: str, name: str
) -> tuple[bytes, Header, int]:
    """Return the same, and which of the keys it was.

    Raises:
        SealError: as :func:`unseal`.
    """
    parts = sealed.take_apart(untrusted)
    if parts.header.vps_id != vps_id:
        raise SealError("it was sealed for another VPS")
    if parts.header.name != name:
        raise SealError("it was sealed under another name")
    for number, key in enumerate(private):
        agreed = _agreed(X25519PrivateKey.from_private_bytes(key), parts.ephemeral)
        try:
            plain = AESGCM(agreed).decrypt(parts.iv, parts.ciphertext + parts.tag, parts.protected)
        except InvalidTag:
            continue
        if not plain:
            raise SealError("its value is empty")
        return plain, parts.header, number
    raise SealError("it was sealed to another key than this VPS has, or it is damaged")


def _agreed(private: X25519PrivateKey, public: bytes) -> bytes:
    """Return the key for the content that both sides agree on (RFC 7518, 4.6.2).

    Raises:
        SealError: the public key is one of those with which no secret can be agreed on.
    """
    try:
        shared = private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        shared = b""
    if not shared:
        raise SealError("no secret can be agreed on with its key")
    algorithm = sealed.ENC.encode("ascii")
    info = (
        *(struct.pack(">I", 1), shared),
        *(struct.pack(">I", len(algorithm)), algorithm),
        *(struct.pack(">I", 0), struct.pack(">I", 0)),  # neither apu nor apv
        struct.pack(">I", _KEY_BITS),
    )
    return hashlib.sha256(b"".join(info)).digest()


def _private_bytes(private: X25519PrivateKey) -> bytes:
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415  # as above

    encoding, form = serialization.Encoding.Raw, serialization.PrivateFormat.Raw
    return private.private_bytes(encoding, form, serialization.NoEncryption())
