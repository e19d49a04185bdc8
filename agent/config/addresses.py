"""The addresses of Keystone and Barbican in the one form that every call and every comparison starts from."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from common import addresses
from common.toml_table import url

_VERSION: Final = re.compile(r"/v\d+(?:\.\d+)?(?:/|$)")  # in a path, wherever it stands


def keystone(text: str) -> str | None:
    """Return Keystone's address with its version, ``https://keystone.example.org/v3``, written so or without.

    None where it is no URL for a credential, or names another version or something below it.
    """
    return _versioned(url(text), "/v3")


def barbican(text: str) -> str | None:
    """Return Barbican's address without its version, written so or with ``/v1``; None as :func:`keystone`."""
    versioned = _versioned(url(text), "/v1")
    return versioned and versioned.removesuffix("/v1")


def barbican_of(untrusted_endpoint: str) -> addresses.Address | None:
    """Return Barbican's address without its version as a catalog gives it, or None where that is none."""
    address = addresses.parse(untrusted_endpoint)
    return replace(address, path=address.path.removesuffix("/v1")) if address else None


def _versioned(address: str | None, version: str) -> str | None:
    if address is None:
        return None
    base = address.removesuffix(version)
    return None if _VERSION.search(base) else base + version
