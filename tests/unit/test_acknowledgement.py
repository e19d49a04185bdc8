"""common/acknowledgement.py: what agent and deployer compute alike."""

from __future__ import annotations

import hashlib
import subprocess

from hypothesis import given
from hypothesis import strategies as st

from common.acknowledgement import consumer_of, digest_of, is_digest, served_digest
from common.names import SecretName, Version

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True).map(SecretName)
versions = st.uuids().map(lambda value: Version(str(value)))
served = st.dictionaries(names, versions, max_size=8)
ONE, TWO = Version("11111111-1111-4111-8111-111111111111"), Version("22222222-2222-4222-8222-222222222222")


def test_the_digest_is_that_of_sorted_lines() -> None:
    """Spelled out, so that no other program need read ours; nothing served has a digest too."""
    text = f"A {ONE}\nA.B {TWO}\nAB {ONE}\n"
    made = served_digest({SecretName("AB"): ONE, SecretName("A"): ONE, SecretName("A.B"): TWO})
    assert made == hashlib.sha256(text.encode()).hexdigest()
    assert served_digest({}) == hashlib.sha256(b"").hexdigest()


def test_a_shell_computes_the_same() -> None:
    """As docs/provisioning.md shows it."""
    made = {SecretName("B"): ONE, SecretName("A.B"): TWO, SecretName("a"): ONE, SecretName("A"): TWO}
    lines = "".join(f"{name} {version}\n" for name, version in made.items())
    command = ["sh", "-c", "LC_ALL=C sort | sha256sum"]
    done = subprocess.run(command, input=lines, capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == served_digest(made)


@given(served, served)
def test_what_differs_has_another_digest(
    one: dict[SecretName, Version], two: dict[SecretName, Version]
) -> None:
    """And the order in which it was put together is nothing."""
    assert (served_digest(one) == served_digest(two)) is (one == two)
    assert served_digest(dict(reversed(one.items()))) == served_digest(one)
    assert is_digest(served_digest(one))


@given(served)
def test_a_consumer_says_a_digest(versions: dict[SecretName, Version]) -> None:
    """As Barbican takes it: a short name, a URL of at most 255 characters."""
    consumer = consumer_of(served_digest(versions))
    assert digest_of(consumer["URL"]) == served_digest(versions)
    assert digest_of(consumer["URL"].upper()) is None
    assert digest_of(consumer["URL"] + "0") is None
    assert digest_of(served_digest(versions)) is None
    assert len(consumer["URL"]) == 87
