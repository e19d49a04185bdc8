"""Names that agent and deployer share: of a secret, of a version, of a VPS, of a container's entry.

A :class:`SecretName` or :class:`Version` has passed its parser; nothing else makes one.
"""

from __future__ import annotations

import functools
import re
from typing import Final, NewType

from common.limits import MAX_NAME, MAX_VPS_ID

SecretName = NewType("SecretName", str)
"""A name without the VPS prefix that has passed :func:`parse_name`."""
Version = NewType("Version", str)
"""The UUID of one Barbican secret, in its canonical lower-case form."""
_NAME: Final = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{MAX_NAME - 1}}}")
MAX_K: Final = 10**15 - 1
"""The largest K of an entry ``VPS_ID/NAME~K``: 15 digits, which a reader of JSON keeps exactly."""
_K: Final = re.compile(r"[1-9][0-9]{0,14}")
_VERSION: Final = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")
_VPS_ID: Final = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{MAX_VPS_ID - 1}}}")


@functools.lru_cache(maxsize=1024)  # every read asks, and a VPS has a handful
def parse_name(untrusted_name: str) -> SecretName | None:
    """Return the name if it is one (``[A-Za-z0-9][A-Za-z0-9._-]{0,199}``), else None."""
    return SecretName(untrusted_name) if _NAME.fullmatch(untrusted_name) else None


def parse_vps_id(untrusted_id: str) -> str | None:
    """Return the VPS id if it is one (as a name, at most 64 characters), else None."""
    return untrusted_id if _VPS_ID.fullmatch(untrusted_id) else None


def parse_version(untrusted_version: str) -> Version | None:
    """Return the version if it is a UUID in canonical form, else None."""
    return Version(untrusted_version) if _VERSION.fullmatch(untrusted_version) else None


def version_in(untrusted_reference: object) -> Version | None:
    """Return the version that a reference to a secret or a container ends in, or None where it has none."""
    if not isinstance(untrusted_reference, str):
        return None
    return parse_version(untrusted_reference.rstrip("/").rpartition("/")[2].lower())


def strip_prefix(vps_id: str, untrusted_full_name: str) -> SecretName | None:
    """Return NAME of ``VPS_ID/NAME``, or None where the prefix is another's or NAME is none."""
    prefix = vps_id + "/"
    if not untrusted_full_name.startswith(prefix):
        return None
    return parse_name(untrusted_full_name[len(prefix) :])


def entry_name(vps_id: str, name: SecretName, k: int) -> str:
    """Return how a container's entry is named: ``VPS_ID/NAME``, from k = 1 on ``VPS_ID/NAME~K``.

    Raises:
        ValueError: k is negative, or larger than :data:`MAX_K`.
    """
    if not 0 <= k <= MAX_K:
        raise ValueError(f"no entry has K = {k}")
    return f"{vps_id}/{name}~{k}" if k else f"{vps_id}/{name}"


def parse_entry_name(vps_id: str, untrusted_full_name: str) -> tuple[SecretName, int] | None:
    """Return NAME and K of what :func:`entry_name` writes, or None where it is something else.

    A secret that was listed before can be listed again under another K only: Barbican refuses the entry name
    that it had. Of several entries of one name the highest K is the newest; one without K has K = 0.
    """
    full, mark, k = untrusted_full_name.partition("~")
    name = strip_prefix(vps_id, full)
    if name is None or (mark and not _K.fullmatch(k)):
        return None
    return name, int(k) if mark else 0
