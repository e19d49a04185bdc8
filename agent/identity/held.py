"""What a VPS holds of its own account: the content of the credential ``account-password``.

A new password is written here before Keystone is asked to take it: whatever is killed in between, one of both
is in force, and trying tells which. Written by join and by the renewal; read by nobody else.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from agent.core import renewal
from agent.identity import credential_file
from agent.identity.account import MAX_ID, is_id
from agent.identity.credential_file import ACCOUNT_PASSWORD, DIRECTORY, KEYSTONE_CREDENTIAL
from agent.identity.errors import CredentialFileError
from common import untrusted_json
from common.untrusted_json import MalformedError

if TYPE_CHECKING:
    from pathlib import Path

    from agent.core.renewal import Pair

_MAX_PASSWORD: Final = 256
_KEYS: Final = ("userId", "password", "next")


@dataclass(frozen=True, slots=True)
class Held:
    """The user, the password in force, and the one that is being put in force (either may be None)."""

    user_id: str
    password: str | None = field(repr=False)
    next: str | None = field(default=None, repr=False)


def write(held: Held, directory: Path = DIRECTORY) -> None:
    """Keep it, encrypted; it is on the disk when this returns.

    Raises:
        CredentialFileError: it can't be; what was there stays.
    """
    content = {"userId": held.user_id, "password": held.password, "next": held.next}
    credential_file.write(ACCOUNT_PASSWORD, json.dumps(content).encode(), directory)


def read(directory: Path = DIRECTORY) -> Held | None:
    """Return what is held, or None where nothing is.

    Raises:
        CredentialFileError: it can't be decrypted, or is not as documented.
    """
    content = credential_file.read(ACCOUNT_PASSWORD, directory)
    return None if content is None else parse(content)


def pair(directory: Path = DIRECTORY) -> Pair | None:
    """Return the application credential in force, None where its file has a secret alone, or is not there.

    Raises:
        CredentialFileError: it can't be decrypted.
    """
    content = credential_file.read(KEYSTONE_CREDENTIAL, directory)
    return renewal.pair(content.decode("utf-8", "replace")) if content else None


def parse(untrusted: bytes) -> Held:
    """Return what the decrypted credential says.

    Raises:
        CredentialFileError: it is not as documented.
    """
    try:
        members = untrusted_json.record(
            untrusted_json.parse(untrusted, ACCOUNT_PASSWORD), ACCOUNT_PASSWORD, _KEYS
        )
        user_id = untrusted_json.text(members["userId"], "userId", MAX_ID)
        if is_id(user_id):
            return Held(user_id, _password(members["password"]), _password(members["next"]))
        reason = "userId is no id"
    except MalformedError as error:
        reason = str(error)
    raise CredentialFileError(f"the credential {ACCOUNT_PASSWORD} is damaged: {reason}")


def _password(untrusted: object) -> str | None:
    return None if untrusted is None else untrusted_json.text(untrusted, "a password", _MAX_PASSWORD)
