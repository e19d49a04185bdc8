"""deployer/kinds/scram.py: what PostgreSQL would have made of the password itself."""

from __future__ import annotations

import base64
import re

from hypothesis import given
from hypothesis import strategies as st

from deployer.kinds import postgresql_setup, scram


def test_the_example_of_rfc_7677() -> None:
    """Password "pencil", with the salt of its section 3."""
    salt = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
    assert scram.verifier(memoryview(b"pencil"), salt) == (
        "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ=="
        "$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
    )


@given(st.binary(min_size=1, max_size=80))
def test_every_verifier_has_the_form_that_the_servers_function_takes(password: bytes) -> None:
    """And another salt each time, so that two roles with one password do not look alike."""
    one, other = (scram.verifier(memoryview(password)) for _ in range(2))
    assert re.fullmatch(postgresql_setup.VERIFIER, one)
    assert one != other
