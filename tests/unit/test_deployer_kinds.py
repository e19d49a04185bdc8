"""The kinds that need nobody else: values as the blueprint says, and what of them may be known."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st
from jwcrypto.jwk import JWK
from jwcrypto.jws import JWS

from common.limits import MAX_PAYLOAD
from common.names import SecretName
from deployer.config.zones import zone
from deployer.core.blueprint import parse
from deployer.core.options import ALGORITHMS, CLASSES, ENCODINGS, SYMBOLS, PasswordOptions, RandomOptions
from deployer.kinds import external
from deployer.kinds.external import External
from deployer.kinds.keypair import Keypair
from deployer.kinds.kind import Facts, KindError
from deployer.kinds.password import Password
from deployer.kinds.random import Random
from deployer.kinds.value import Value

if TYPE_CHECKING:
    from deployer.kinds.kind import Kind

VERSION: Final = "0b5a7c5e-2d0e-4c1c-9b0a-3f6f7d7d0b11"


def facts_of(keys: str, vps_id: str = "vps-1") -> Facts:
    """Return the facts of a secret A with these keys of a blueprint."""
    spec = parse(f'[A]\nrotate = "30d"\n{keys}\n'.encode(), Path("b.toml"), zone).secrets[SecretName("A")]
    return Facts(vps_id, spec.name, "", VERSION, "r-1", spec)


def made(kind: Kind, keys: str) -> bytes:
    """Return the bytes of a new value."""
    with kind.make(facts_of(keys)) as value:
        return bytes(value.reveal())


@pytest.mark.parametrize(
    ("encoding", "decode", "form"),
    [
        ("base64url", lambda text: base64.urlsafe_b64decode(text + b"=="), rb"[A-Za-z0-9_-]{63}"),
        ("base64", base64.b64decode, rb"[A-Za-z0-9+/]{63}="),
        ("hex", lambda text: bytes.fromhex(text.decode()), rb"[0-9a-f]{94}"),
        ("raw", bytes, rb"(?s:.){47}"),
    ],
)
def test_random_bytes_in_each_encoding(encoding: str, decode: Any, form: bytes) -> None:
    """As many as are asked for, never the same twice."""
    keys = f'kind = "random"\nbytes = 47\nencoding = "{encoding}"'
    values = {made(Random(), keys) for _ in range(20)}
    assert len(values) == 20
    assert all(re.fullmatch(form, value) and len(decode(value)) == 47 for value in values)
    assert encoding in ENCODINGS


@given(
    st.integers(12, 40),
    st.lists(st.sampled_from(sorted(CLASSES)), min_size=1, unique=True),
    st.text(SYMBOLS, max_size=6).map(lambda text: "".join(dict.fromkeys(text))),
)
def test_a_password_has_one_of_each_set_and_nothing_else(
    length: int, classes: list[str], symbols: str
) -> None:
    """Whatever sets the blueprint names."""
    sets = (*(CLASSES[name] for name in classes), *([symbols] if symbols else []))
    facts = facts_of('kind = "password"')
    object.__setattr__(facts.spec, "options", PasswordOptions(length, sets))
    with Password().make(facts) as value:
        text = bytes(value.reveal()).decode()
    assert len(text) == length
    assert set(text) <= set("".join(sets))
    assert all(set(text) & set(wanted) for wanted in sets)


def test_every_character_of_a_password_is_equally_likely() -> None:
    """Of 64,000 drawn, each of 62 about a thousand times, at the first place as at the last."""
    drawn = [made(Password(), 'kind = "password"') for _ in range(2000)]
    counts = [b"".join(drawn).count(character) for character in "".join(CLASSES.values()).encode()]
    assert min(counts) > 800
    assert max(counts) < 1300
    assert len({password[0] for password in drawn}) == len({password[-1] for password in drawn}) == 62


@pytest.mark.parametrize("form", ["pem", "jwk"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_key_pair_signs_and_its_public_half_checks(algorithm: str, form: str) -> None:
    """Read by a library that is not ours; the public half has nothing of the private one."""
    kind, facts = Keypair(), facts_of(f'kind = "keypair"\nalgorithm = "{algorithm}"\nformat = "{form}"')
    with kind.make(facts) as value:
        content, public = bytes(value.reveal()), kind.public(facts, value)
    if form == "pem":
        assert content.startswith(b"-----BEGIN PRIVATE KEY-----\n")
        private_key, public_key = JWK.from_pem(content), JWK.from_pem(public.encode())
    else:
        assert json.loads(content).keys() > json.loads(public).keys()
        private_key, public_key = JWK.from_json(content.decode()), JWK.from_json(public)
        assert json.loads(public)["kid"] == json.loads(content)["kid"] == public_key.thumbprint()
    assert private_key.has_private
    assert not public_key.has_private
    name = {"ed25519": "EdDSA", "ec-p256": "ES256", "rsa-3072": "PS256"}[algorithm]
    signed = JWS(b"message")
    signed.add_signature(private_key, None, json.dumps({"alg": name}))
    JWS.from_jose_token(signed.serialize(compact=True)).verify(public_key)


@pytest.mark.parametrize(
    ("algorithm", "of"),
    [
        ("ed25519", ed25519.Ed25519PrivateKey),
        ("ec-p256", ec.EllipticCurvePrivateKey),
        ("rsa-3072", rsa.RSAPrivateKey),
    ],
)
def test_a_key_is_of_the_size_that_is_named(algorithm: str, of: type) -> None:
    """And never the same twice."""
    contents = {made(Keypair(), f'kind = "keypair"\nalgorithm = "{algorithm}"') for _ in range(2)}
    assert len(contents) == 2
    key = serialization.load_pem_private_key(contents.pop(), None)
    assert isinstance(key, of)
    if isinstance(key, rsa.RSAPrivateKey):
        assert key.key_size == 3072
    if isinstance(key, ec.EllipticCurvePrivateKey):
        assert key.curve.name == "secp256r1"


def test_coordinates_keep_their_leading_zeros() -> None:
    """One key of 256 has one; a JWK without it would be another key's (RFC 7518, 6.2.1.2)."""
    for _ in range(300):
        members = json.loads(made(Keypair(), 'kind = "keypair"\nalgorithm = "ec-p256"\nformat = "jwk"'))
        assert {len(members[member]) for member in ("x", "y", "d")} == {43}


def test_what_is_no_key_has_no_public_half() -> None:
    """It is refused without a word of it."""
    with Value(b"canary-a1b2") as value, pytest.raises(KindError, match="no key of ours") as caught:
        Keypair().public(facts_of('kind = "keypair"'), value)
    assert "canary" not in repr(caught.value.__context__)
    assert caught.value.permanent


def test_no_other_kind_has_a_public_half() -> None:
    """Nor accounts, nor anything to do elsewhere."""
    kinds: list[Kind] = [Random(), Password(), External()]
    for kind in kinds:
        facts = facts_of(f'kind = "{kind.name}"')
        kind.preflight(facts)
        with Value(b"x") as value:
            kind.apply(facts, value)
            kind.test(facts, value)
            assert kind.public(facts, value) is None
        kind.retire(facts)
        kind.lock(facts)
        assert kind.slots(facts.spec) == ()


def test_an_external_value_waits_until_it_is_taken_once() -> None:
    """Byte for byte, for its VPS and name alone; the last one given counts, the others are wiped."""
    kind, facts = External(), facts_of('kind = "external"')
    with pytest.raises(KindError, match="nobody has given") as caught:
        kind.make(facts)
    assert not caught.value.permanent
    first, second, other = Value(b" \0first\n"), Value(b" \0second\n"), Value(b"other")
    kind.give("vps-1", facts.name, first)
    kind.give("vps-1", facts.name, second)
    kind.give("vps-2", facts.name, other)
    assert kind.waits("vps-1", facts.name)
    with pytest.raises(ValueError, match="closed"):
        first.reveal()
    taken = kind.make(facts)
    assert bytes(taken.reveal()) == b" \0second\n"
    assert not kind.waits("vps-1", facts.name)
    assert kind.waits("vps-2", facts.name)


def test_what_external_refuses_is_wiped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing at all, more than a payload can be, more values than fit."""
    kind, name = External(), SecretName("A")
    for content in (b"", b"x" * (MAX_PAYLOAD + 1)):
        value = Value(content)
        with pytest.raises(KindError, match="bytes") as caught:
            kind.give("vps-1", name, value)
        assert caught.value.permanent
        with pytest.raises(ValueError, match="closed"):
            value.reveal()
    monkeypatch.setattr(external, "MAX_WAITING", 2)
    kind.give("vps-1", name, Value(b"1"))
    kind.give("vps-2", name, Value(b"2"))
    kind.give("vps-2", name, Value(b"3"))  # takes the place of one
    refused = Value(b"4")
    with pytest.raises(KindError, match="later") as caught:
        kind.give("vps-3", name, refused)
    assert not caught.value.permanent
    with pytest.raises(ValueError, match="closed"):
        refused.reveal()


def test_a_value_that_waits_is_taken_by_one_only() -> None:
    """Two workers never store the same one twice."""
    kind, facts = External(), facts_of('kind = "external"')
    taken, barrier = [], threading.Barrier(4)

    def take() -> None:
        barrier.wait()
        with contextlib.suppress(KindError):
            taken.append(kind.make(facts))

    for _ in range(50):
        kind.give("vps-1", facts.name, Value(b"x"))
        threads = [threading.Thread(target=take) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(taken) == 50


def test_the_facts_know_which_kind_they_are_of() -> None:
    """A caller that mixes kinds is told, without what the blueprint says."""
    facts = facts_of('kind = "random"')
    assert facts.options(RandomOptions) == RandomOptions()
    with pytest.raises(TypeError, match="A is of the kind random"):
        facts.options(PasswordOptions)


def test_a_thumbprint_is_that_of_rfc_7638() -> None:
    """By hand: the required members in order, without white space."""
    members = json.loads(made(Keypair(), 'kind = "keypair"\nformat = "jwk"'))
    required = {key: members[key] for key in ("crv", "kty", "x")}
    digest = hashlib.sha256(json.dumps(required, separators=(",", ":")).encode()).digest()
    assert members["kid"] == base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
