"""The kind ``keypair``: a private key as PKCS #8 PEM or as JWK; its public half may leave."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
from typing import TYPE_CHECKING, Final, TypeAlias

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from deployer.core.options import KeypairOptions
from deployer.kinds.kind import KindError, NoThirdParty
from deployer.kinds.value import Value

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from deployer.kinds.kind import Facts

PrivateKey: TypeAlias = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
PublicKey: TypeAlias = ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey | rsa.RSAPublicKey

_MAKERS: Final[Mapping[str, Callable[[], PrivateKey]]] = {
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "ec-p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "rsa-3072": lambda: rsa.generate_private_key(public_exponent=65537, key_size=3072),
}
_P256: Final = 32
"""Bytes of a coordinate."""


class Keypair(NoThirdParty):
    """A signing key. In a JWK, ``kid`` is the thumbprint of the public key (RFC 7638)."""

    name = "keypair"

    def make(self, facts: Facts) -> Value:
        """Make a key."""
        options = facts.options(KeypairOptions)
        key = _MAKERS[options.algorithm]()
        if options.format == "jwk":
            return Value(json.dumps(_private_jwk(key)).encode())
        return Value(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )

    def public(self, facts: Facts, value: Value) -> str:
        """Return the public half: SubjectPublicKeyInfo in PEM, or a JWK."""
        if facts.options(KeypairOptions).format == "jwk":
            members = json.loads(bytes(value.reveal()))
            return json.dumps({member: members[member] for member in ("kid", *_required(members["kty"]))})
        key: object = None
        with contextlib.suppress(ValueError):
            key = serialization.load_pem_private_key(bytes(value.reveal()), None)
        if not isinstance(key, PrivateKey):
            raise KindError("make", "the value is no key of ours", permanent=True)
        spki = serialization.PublicFormat.SubjectPublicKeyInfo
        return key.public_key().public_bytes(serialization.Encoding.PEM, spki).decode()


def _required(kty: str) -> tuple[str, ...]:
    """Return the members of a public key, in the order of RFC 7638, 3.2 and RFC 8037, 2."""
    return {"OKP": ("crv", "kty", "x"), "EC": ("crv", "kty", "x", "y"), "RSA": ("e", "kty", "n")}[kty]


def _private_jwk(key: PrivateKey) -> dict[str, str]:
    public = _public_jwk(key.public_key())
    thumbprint = hashlib.sha256(json.dumps(public, separators=(",", ":"), sort_keys=True).encode()).digest()
    return {"kid": _base64url(thumbprint), **public, **_private_members(key)}


def _public_jwk(key: PublicKey) -> dict[str, str]:
    if isinstance(key, ed25519.Ed25519PublicKey):
        raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        return {"crv": "Ed25519", "kty": "OKP", "x": _base64url(raw)}
    if isinstance(key, ec.EllipticCurvePublicKey):
        point = key.public_numbers()
        return {"crv": "P-256", "kty": "EC", "x": _integer(point.x, _P256), "y": _integer(point.y, _P256)}
    numbers = key.public_numbers()
    return {"e": _integer(numbers.e), "kty": "RSA", "n": _integer(numbers.n)}


def _private_members(key: PrivateKey) -> dict[str, str]:
    """Return what RFC 8037 (OKP) and RFC 7518, 6.2.2 and 6.3.2 (EC, RSA) add."""
    if isinstance(key, ed25519.Ed25519PrivateKey):
        encoding, form = serialization.Encoding.Raw, serialization.PrivateFormat.Raw
        return {"d": _base64url(key.private_bytes(encoding, form, serialization.NoEncryption()))}
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return {"d": _integer(key.private_numbers().private_value, _P256)}
    numbers = key.private_numbers()
    members = {"d": numbers.d, "p": numbers.p, "q": numbers.q}
    members |= {"dp": numbers.dmp1, "dq": numbers.dmq1, "qi": numbers.iqmp}
    return {member: _integer(number) for member, number in members.items()}


def _integer(number: int, size: int | None = None) -> str:
    """Return Base64urlUInt (RFC 7518, 2), of a coordinate with all its bytes."""
    return _base64url(number.to_bytes(size or (number.bit_length() + 7) // 8, "big"))


def _base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
