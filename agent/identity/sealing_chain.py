"""The sealing keys of a VPS: a chain of them from one seed, of which only the renewal and join have that.

The credential ``sealing-chain`` is never given to a unit; fetch gets the key in force and the former one. So
who gets those has none that comes after. Each key says the digest of the next one (common/sealing_key.py).
"""

from __future__ import annotations

import hmac
import secrets
from functools import cached_property
from typing import TYPE_CHECKING, Final

from agent.identity import credential_file
from agent.identity.errors import CredentialFileError
from common import sealing_key
from common.sealing_key import Announced

if TYPE_CHECKING:
    from pathlib import Path

CREDENTIAL: Final = "sealing-chain"
LENGTH: Final = 100
"""Keys of a chain; one a year. When they are used up the VPS joins anew."""
MAX_LINES: Final = 2


class Chain:
    """All keys that follow from a seed (32 bytes), numbered from 0."""

    def __init__(self, seed: bytes) -> None:
        self._seed = seed

    def private(self, number: int) -> bytes:
        """Return a private key."""
        return hmac.digest(self._seed, b"vps-secrets sealing key %d" % number, "sha256")

    @cached_property
    def announced(self) -> tuple[Announced, ...]:
        """What is announced of each."""
        from common import sealing  # noqa: PLC0415  # cryptography is loaded only where a key is made

        public = [sealing.public_of(self.private(number)) for number in range(LENGTH)]
        found: list[Announced] = []
        for number in reversed(range(LENGTH)):
            after = found[-1].digest if found else b""
            found.append(Announced(public[number], after, public[number - 1] if number else b""))
        return tuple(reversed(found))

    def line(self, number: int) -> str:
        """Return a private key as the credential ``sealing-key`` has it."""
        return f"{sealing_key.encoded(self.private(number))}{self.announced[number].rest}"

    def number_of(self, line: str) -> int | None:
        """Return which key a line of that credential has, None where it is none of this chain."""
        held = sealing_key.parse(line)
        keys = (number for number in range(LENGTH) if held and held.key == self.private(number))
        return next(keys, None)


def read(directory: Path) -> Chain | None:
    """Return the chain of this machine, None where it has none.

    Raises:
        CredentialFileError: it can't be decrypted, or is damaged.
    """
    content = credential_file.read(CREDENTIAL, directory)
    if content is None:
        return None
    seed = sealing_key.decoded(content.decode("ascii", "replace").strip())
    if seed is None:
        raise CredentialFileError(f"the credential {CREDENTIAL} is damaged: this VPS has to join anew")
    return Chain(seed)


def make(directory: Path) -> Chain:
    """Make one and keep it, encrypted; it is on the disk when this returns.

    Raises:
        CredentialFileError: it can't be kept.
    """
    seed = secrets.token_bytes(sealing_key.KEY_BYTES)
    credential_file.write(CREDENTIAL, sealing_key.encoded(seed).encode() + b"\n", directory)
    return Chain(seed)


def lines(directory: Path) -> list[str]:
    """Return the keys that fetch has, the one in force first.

    Raises:
        CredentialFileError: they can't be decrypted.
    """
    content = credential_file.read(sealing_key.CREDENTIAL, directory) or b""
    return content.decode("ascii", "replace").split()[:MAX_LINES]


def put(held: list[str], directory: Path) -> None:
    """Give fetch these keys, the one in force first.

    Raises:
        CredentialFileError: they can't be kept; what was there stays.
    """
    content = "".join(f"{line}\n" for line in held)
    credential_file.write(sealing_key.CREDENTIAL, content.encode(), directory)
