"""common/sealing.py and sealed.py: a value for one VPS, and what other libraries make of it."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jwcrypto import jwe, jwk

from common import sealed, sealing
from common.limits import MAX_NAME, MAX_VPS_ID
from common.names import SecretName
from common.sealed import Header, SealError

ROOT: Final = Path(__file__).parents[2]
JOSE: Final = (ROOT / "build/jose/dist/webapi/index.js").resolve().as_uri()
VPS, NAME = "vps-prod-001", SecretName("JWT_SECRET")
HEADER: Final = Header(VPS, NAME, 1_795_000_000_000)
PRIVATE, PUBLIC = sealing.new_key()
VALUE: Final = b"a value that nobody else opens"

word = st.text("ABCXYZabcxyz019._-", min_size=1, max_size=40).map(lambda text: "A" + text)
sequences = st.integers(0, sealed.MAX_SEQUENCE)
keeps = st.none() | st.integers(0, sealed.MAX_KEEP_S)


@st.composite
def headers(draw: st.DrawFn) -> Header:
    """Return any header that may be."""
    sequence = draw(sequences)
    floor = draw(st.integers(0, sequence))
    return Header(draw(word), SecretName(draw(word)), sequence, floor, draw(keeps))


def b64(content: bytes) -> str:
    """Return base64url without padding."""
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def as_jwk(public: bytes, private: bytes | None = None) -> dict[str, str]:
    """Return a key as other libraries take it."""
    key = {"kty": "OKP", "crv": "X25519", "x": b64(public)}
    return key if private is None else key | {"d": b64(private)}


def members_of(value: bytes) -> dict[str, Any]:
    """Return the protected header as it stands there."""
    part = value.partition(b".")[0]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4)))
    return found


def of_jwcrypto(members: dict[str, Any], plain: bytes = VALUE, public: bytes = PUBLIC) -> bytes:
    """Return what jwcrypto seals under these header members."""
    made = jwe.JWE(plain, json.dumps(members))
    made.add_recipient(jwk.JWK(**as_jwk(public)))
    compact: str = made.serialize(compact=True)
    return compact.encode()


def with_header(value: bytes, **changed: Any) -> bytes:
    """Return a sealed value whose header says something else; None takes a member away."""
    members = {name: told for name, told in (members_of(value) | changed).items() if told is not None}
    return b".".join((b64(json.dumps(members).encode()).encode(), *value.split(b".")[1:]))


def refusal(value: bytes, keys: tuple[bytes, ...] = (PRIVATE,), vps_id: str = VPS, name: str = NAME) -> str:
    """Return why a sealed value is refused; the reason has nothing of the value or the keys."""
    with pytest.raises(SealError) as caught:
        sealing.unseal(value, keys, vps_id, name)
    assert caught.value.__context__ is None
    said = str(caught.value)
    assert VALUE.decode() not in said
    assert all(part.decode() not in said for part in value.split(b".") if len(part) > 8)
    return said


def ask_jose(seal: list[dict[str, Any]], opened: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what npm's jose makes of it; scripts/setup has fetched it."""
    asked = json.dumps({"library": JOSE, "seal": seal, "open": opened})
    command = ["node", "--no-warnings", str(Path(__file__).with_name("jose_oracle.mjs"))]
    done = subprocess.run(command, input=asked, capture_output=True, text=True, check=True, timeout=60)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@given(headers(), st.binary(min_size=1, max_size=400))
def test_what_is_sealed_is_opened(header: Header, value: bytes) -> None:
    """Byte for byte, with its header; two seals of one value have nothing in common but its words."""
    made = sealing.seal(value, PUBLIC, header)
    assert sealed.is_sealed(made)
    assert sealing.unseal(made, (PRIVATE,), header.vps_id, header.name) == (value, header)
    again = sealing.seal(value, PUBLIC, header)
    assert made.split(b".")[2:] != again.split(b".")[2:]
    assert members_of(made)["epk"] != members_of(again)["epk"]


@given(headers(), st.binary(min_size=1, max_size=200), st.data())
def test_a_changed_byte_is_refused(header: Header, value: bytes, data: st.DataObject) -> None:
    """Wherever it is, and whatever it becomes: nothing is opened but what was sealed."""
    made = bytearray(sealing.seal(value, PUBLIC, header))
    at = data.draw(st.integers(0, len(made) - 1))
    was = made[at]
    made[at] = data.draw(st.integers(0, 255).filter(lambda byte: byte != was))
    with pytest.raises(SealError):
        sealing.unseal(bytes(made), (PRIVATE,), header.vps_id, header.name)


@given(st.binary(max_size=300))
def test_whatever_is_there_is_refused_in_words(untrusted: bytes) -> None:
    """Never with another error."""
    with pytest.raises(SealError):
        sealing.unseal(untrusted, (PRIVATE,), VPS, NAME)


def test_jwcrypto_opens_ours() -> None:
    """And finds the header as it is documented."""
    made = sealing.seal(VALUE, PUBLIC, Header(VPS, NAME, 7, 7, 3600))
    theirs = jwe.JWE()
    theirs.deserialize(made.decode(), jwk.JWK(**as_jwk(PUBLIC, PRIVATE)))
    assert theirs.payload == VALUE
    said = members_of(made)
    assert said.pop("epk").keys() == {"crv", "kty", "x"}
    fixed = {"alg": "ECDH-ES", "enc": "A256GCM"}
    assert said == fixed | {"vps": VPS, "name": NAME, "seq": 7, "floor": 7, "keep": 3600}


def test_we_open_jwcryptos() -> None:
    """A member that we don't know is ignored, as RFC 7516 wants."""
    told = {"alg": "ECDH-ES", "enc": "A256GCM", "vps": VPS, "name": NAME, "seq": 5, "kid": "some key"}
    made = of_jwcrypto(told)
    assert sealing.unseal(made, (PRIVATE,), VPS, NAME) == (VALUE, Header(VPS, NAME, 5))


@pytest.mark.slow  # not so slow, but it needs npm's jose and Node.js, and make check neither
def test_jose_of_npm_opens_ours_and_we_open_joses() -> None:
    """What a portal in JavaScript would use; the longest value too."""
    long = b"x" * sealed.most_bytes(HEADER)
    told = {"alg": "ECDH-ES", "enc": "A256GCM", "vps": VPS, "name": NAME, "seq": 9, "floor": 3}
    answer = ask_jose(
        [{"plain": base64.b64encode(VALUE).decode(), "key": as_jwk(PUBLIC), "header": told}],
        [
            {"jwe": sealing.seal(value, PUBLIC, HEADER).decode(), "key": as_jwk(PUBLIC, PRIVATE)}
            for value in (VALUE, long)
        ],
    )
    assert [base64.b64decode(each["plain"]) for each in answer["opened"]] == [VALUE, long]
    made = answer["sealed"][0].encode()
    assert sealing.unseal(made, (PRIVATE,), VPS, NAME) == (VALUE, Header(VPS, NAME, 9, 3))


def test_two_keys_while_a_key_rotates() -> None:
    """The former and the next one: whichever fits."""
    other, other_public = sealing.new_key()
    for public in (PUBLIC, other_public):
        made = sealing.seal(VALUE, public, HEADER)
        assert sealing.unseal(made, (other, PRIVATE), VPS, NAME)[0] == VALUE


def test_another_key_vps_or_name_is_refused() -> None:
    """Each with its reason."""
    made = sealing.seal(VALUE, PUBLIC, HEADER)
    assert "another key" in refusal(made, (sealing.new_key()[0],))
    assert "another VPS" in refusal(made, vps_id="vps-prod-002")
    assert "another name" in refusal(made, name="JWT_SECRET2")


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"alg": "ECDH-ES+A256KW"}, "alg is not"),
        ({"alg": "dir"}, "alg is not"),
        ({"alg": "RSA-OAEP-256"}, "alg is not"),
        ({"alg": None}, "alg is not"),
        ({"enc": "A128GCM"}, "enc is not"),
        ({"enc": "A256CBC-HS512"}, "enc is not"),
        ({"zip": "DEF"}, "has zip"),
        ({"crit": ["exp"]}, "has crit"),
        ({"apu": "QQ"}, "has apu"),
        ({"apv": "QQ"}, "has apv"),
        ({"epk": {"crv": "X448", "kty": "OKP", "x": "A" * 43}}, "ephemeral key"),
        ({"epk": {"crv": "P-256", "kty": "EC", "x": "A" * 43, "y": "A" * 43}}, "ephemeral key"),
        ({"epk": {"crv": "X25519", "kty": "OKP", "x": "A" * 42}}, "ephemeral key"),
        ({"epk": {"crv": "X25519", "kty": "OKP", "x": 7}}, "ephemeral key"),
        ({"epk": {"crv": "X25519", "kty": "OKP", "x": "A" * 43}}, "no secret can be agreed on"),
        ({"epk": None}, "ephemeral key"),
        ({"vps": None}, "of which VPS"),
        ({"vps": 7}, "of which VPS"),
        ({"name": "../x"}, "of which VPS"),
        ({"name": None}, "of which VPS"),
        ({"seq": None}, "seq"),
        ({"seq": -1}, "seq"),
        ({"seq": 1.5}, "seq"),
        ({"seq": True}, "seq"),
        ({"seq": 2**53}, "seq"),
        ({"floor": 2**52}, "floor"),
        ({"floor": "1"}, "floor"),
        ({"keep": -1}, "keep"),
        ({"keep": 8 * 86400}, "keep"),
        ({"more": "x" * 2000}, "header is longer"),
        ({"more": 1}, "another key than this VPS has, or it is damaged"),  # the tag covers the header
    ],
)
def test_a_header_that_breaks_a_rule_is_refused(changed: dict[str, Any], reason: str) -> None:
    """Before any key is used, and for the reason that is told."""
    assert reason in refusal(with_header(sealing.seal(VALUE, PUBLIC, HEADER), **changed))


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (lambda parts: parts[:4], "five parts"),
        (lambda parts: [*parts, b""], "five parts"),
        (lambda parts: [parts[0], b"QUJD", *parts[2:]], "encrypted key"),
        (lambda parts: [b"W10", *parts[1:]], "not an object"),
        (lambda parts: [b"eyJhIg", *parts[1:]], "not JSON"),
        (lambda parts: [b64(b'{"alg":"ECDH-ES","alg":"ECDH-ES"}').encode(), *parts[1:]], "not JSON"),
        (lambda parts: [*parts[:2], parts[2][:-4], *parts[3:]], "initialization vector"),
        (lambda parts: [*parts[:4], parts[4][:-2]], "truncated"),
        (lambda parts: [*parts[:4], b""], "truncated"),
        (lambda parts: [*parts[:4], parts[4] + b"="], "not base64url"),
        (lambda parts: [*parts[:3], parts[3][:-4], parts[4]], "damaged"),
        (lambda parts: [*parts[:3], b"A", parts[4]], "not base64url"),
        (lambda parts: [*parts[:3], parts[3] * 700, parts[4]], "longer than 20000 bytes"),
    ],
)
def test_a_form_that_breaks_a_rule_is_refused(broken: Any, reason: str) -> None:
    """Truncated anywhere, with more than it should have, or too long."""
    made = sealing.seal(VALUE, PUBLIC, HEADER)
    assert reason in refusal(b".".join(broken(made.split(b"."))))


def test_what_others_compress_or_wrap_is_refused() -> None:
    """Made by a library that can: not only a header that was changed afterwards."""
    told: dict[str, Any] = {"alg": "ECDH-ES", "enc": "A256GCM", "vps": VPS, "name": NAME, "seq": 1}
    assert "zip" in refusal(of_jwcrypto(told | {"zip": "DEF"}))
    assert "encrypted key" in refusal(of_jwcrypto(told | {"alg": "ECDH-ES+A256KW"}))
    assert "value is empty" in refusal(of_jwcrypto(told, plain=b""))


def test_the_longest_value_fits_into_what_barbican_takes() -> None:
    """14,765 bytes under usual names; the longest names leave less, and that is known before."""
    assert sealed.most_bytes(HEADER) == 14_765
    longest = Header("v" * MAX_VPS_ID, SecretName("N" * MAX_NAME), 2**53 - 1, 2**53 - 1, 86400)
    for header in (HEADER, longest):
        most = sealed.most_bytes(header)
        assert len(sealing.seal(b"x" * most, PUBLIC, header)) <= sealed.MAX_SEALED
        for size in (0, most + 1):
            with pytest.raises(SealError, match=rf"1 to {most} bytes"):
                sealing.seal(b"x" * size, PUBLIC, header)
    assert sealed.most_bytes(longest) > 14_000


def test_a_header_that_none_would_take_is_not_made() -> None:
    """A defect of the caller's is found before a value is stored that nobody opens."""
    for wrong in (Header("", NAME, 1), Header(VPS, SecretName("a b"), 1), Header(VPS, NAME, 1, 2)):
        with pytest.raises(SealError):
            sealing.seal(VALUE, PUBLIC, wrong)
    with pytest.raises(SealError, match="agreed on"):
        sealing.seal(VALUE, bytes(32), HEADER)


@pytest.mark.parametrize(
    "plain", [b"secret", b"", b"eyJhbGciOiJIUzI1NiJ9.eyJhIjoxfQ.c2ln", b"a.b.c.d.e", b"eyJ.\n..."]
)
def test_what_is_no_jwe_is_plain(plain: bytes) -> None:
    """A signed token has three parts and is a value like any other."""
    assert not sealed.is_sealed(plain)


def test_a_truncated_one_is_not_taken_for_plain() -> None:
    """Wherever it was cut behind its header: what is left is no value for an application."""
    made = sealing.seal(VALUE, PUBLIC, HEADER)
    for end in range(made.index(b".") + 2, len(made)):
        assert sealed.is_sealed(made[:end])
        with pytest.raises(SealError):
            sealing.unseal(made[:end], (PRIVATE,), VPS, NAME)
