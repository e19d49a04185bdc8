"""How an agent says in its container which versions it serves: as a consumer of Barbican's, by a digest.

The agent registers the consumer (docs/adr/0024), the deployment computes the same digest and looks for it. A
consumer is a claim by whoever holds the VPS's credential, no proof. It holds no name, version or value.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from common.names import SecretName, Version

CONSUMER: Final = "vps-secrets"
"""The name of the consumer."""
_URL: Final = "urn:vps-secrets:serves:"
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


def served_digest(versions: Mapping[SecretName, Version]) -> str:
    """Return the SHA-256 (hex) of the sorted lines ``NAME VERSION``, each with its newline, in ASCII."""
    lines = sorted(f"{name} {version}\n" for name, version in versions.items())
    return hashlib.sha256("".join(lines).encode("ascii")).hexdigest()


def is_digest(untrusted: str) -> bool:
    """Return whether a text is what :func:`served_digest` returns."""
    return _DIGEST.fullmatch(untrusted) is not None


def consumer_of(digest: str) -> dict[str, str]:
    """Return the consumer that says a digest, as the JSON object that Barbican takes and lists."""
    return {"name": CONSUMER, "URL": _URL + digest}


def digest_of(untrusted_url: str) -> str | None:
    """Return the digest that a consumer's URL says, or None where it is another's."""
    digest = untrusted_url.removeprefix(_URL)
    return digest if untrusted_url.startswith(_URL) and is_digest(digest) else None
