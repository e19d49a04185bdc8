"""What a new VPS is given to take over its identity with: read, kept until it has, and wiped.

It is the answer of the deployer's POST /v1/vps/ID/claim: JSON, with a one-time password that does one thing,
change itself. While the VPS joins it lies in join's own directory, so that a restart goes on with it.
"""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent.config import addresses
from agent.identity import credential_file
from agent.identity.account import MAX_ID, is_id
from common import untrusted_json
from common.names import parse_vps_id, version_in
from common.untrusted_json import MalformedError

if TYPE_CHECKING:
    from typing import BinaryIO

STATE: Final = Path("/var/lib/vps-secrets-join")
FILE: Final = "claim.json"
MAX_BYTES: Final = 64 * 1024
_MAX_WORD: Final = 255
_MAX_URL: Final = 2048
_MAX_PASSWORD: Final = 256


class ClaimError(Exception):
    """There is no claim, or it can't be used; the text says why, and nothing of it."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What the deployer handed out. What is None was not given."""

    vps_id: str
    user_id: str
    auth_url: str
    container_id: str
    one_time_password: str = field(repr=False)
    sealed: bool = False
    """Whether this VPS's secrets are sealed to its key."""
    region: str | None = None
    interface: str | None = None
    ca_file: str | None = None
    user: str | None = None
    unit: str | None = None
    keep: bool = False
    """Whether the machine was set up by hand, and keeps what it has: a person says so, never the deployer."""


def parse(untrusted: bytes) -> Claim:
    """Return the claim; what it does not know in it is left alone.

    Raises:
        ClaimError: it is not as documented.
    """
    try:
        return _claim(untrusted_json.mapping(untrusted_json.parse(untrusted, "the claim"), "the claim"))
    except MalformedError as error:
        reason = str(error)
    raise ClaimError(f"{reason}: give the file as vps-secrets-deploy vps claim wrote it")


def _claim(members: dict[str, object]) -> Claim:
    def word(key: str, most: int = _MAX_WORD) -> str | None:
        return None if members.get(key) is None else untrusted_json.text(members[key], key, most)

    vps_id = parse_vps_id(word("vps") or "")
    user_id, auth_url = word("userId", MAX_ID) or "", addresses.keystone(word("authUrl", _MAX_URL) or "")
    container_id = version_in(word("container", _MAX_URL) or "")
    password = word("oneTimePassword", _MAX_PASSWORD)
    if vps_id is None or not is_id(user_id) or auth_url is None or container_id is None or not password:
        needed = {
            "vps": vps_id,
            "userId": is_id(user_id),
            "authUrl": auth_url,
            "container": container_id,
            "oneTimePassword": password,
        }
        wrong = ", ".join(key for key, good in needed.items() if not good)
        raise MalformedError(f"{wrong} of the claim is missing, or is none")
    sealing = word("sealing")
    if sealing not in {None, "required", "off"}:
        raise MalformedError("sealing of the claim is neither required nor off")
    words = {key: word(key) for key in ("region", "interface", "user", "unit")}
    ca_file = word("caFile", _MAX_URL)
    return Claim(
        vps_id,
        user_id,
        auth_url,
        container_id,
        password,
        sealing == "required",
        ca_file=ca_file,
        keep=members.get("keep") is True,
        **words,
    )


def take(source: str, standard_input: BinaryIO, state: Path = STATE, *, keep: bool = False) -> Claim:
    """Read a claim from a file (``-``: standard input), keep it, and then wipe the file that it came from.

    ``keep`` is remembered with it, so that a run that systemd starts goes on as the one that was killed.

    Raises:
        ClaimError: it can't be read or kept; the file is left alone.
        CredentialFileError: it can't be kept.
    """
    content = standard_input.read(MAX_BYTES + 1) if source == "-" else _content(Path(source))
    if len(content) > MAX_BYTES:
        raise ClaimError(f"{source}: it is longer than {MAX_BYTES} bytes, so it is not the file meant")
    claim = parse(content)
    if keep and not claim.keep:
        content = json.dumps(json.loads(content) | {"keep": True}).encode()
        claim = parse(content)
    kept = state / FILE
    there = source != "-" and _same(Path(source), kept)
    if keep or not there:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        credential_file.put(kept, content)
    if source != "-" and not there:
        wipe(Path(source))
    return claim


def wipe(path: Path) -> None:
    """Overwrite a file and delete it; it may be gone. On flash and in snapshots the former bytes may remain.

    Raises:
        ClaimError: it can't be.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return
    except OSError as error:
        raise ClaimError(f"{path}: {error.strerror}: delete it by hand") from None
    with os.fdopen(descriptor, "wb") as file:
        status = os.fstat(file.fileno())
        if stat.S_ISREG(status.st_mode):
            file.write(bytes(status.st_size))
            file.flush()
            os.fsync(file.fileno())
    path.unlink(missing_ok=True)


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        reason = error.strerror
    raise ClaimError(f"{path}: {reason}")


def _same(one: Path, other: Path) -> bool:
    return other.exists() and one.samefile(other)
