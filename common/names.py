"""Names that agent and deployer share: of a secret, of a version, of a VPS.

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


def strip_prefix(vps_id: str, untrusted_full_name: str) -> SecretName | None:
    """Return NAME of ``VPS_ID/NAME``, or None where the prefix is another's or NAME is none."""
    prefix = vps_id + "/"
    if not untrusted_full_name.startswith(prefix):
        return None
    return parse_name(untrusted_full_name[len(prefix) :])
