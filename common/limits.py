"""How much one VPS may have: what the deployment may store, and what an agent takes.

The README states them. Barbican's own limit on a payload is 20,000 bytes unless its operator changed it.
"""

from __future__ import annotations

from typing import Final

MAX_SECRETS: Final = 200
"""Entries of a container."""
MAX_PAYLOAD: Final = 64 * 1024
"""Bytes of one payload."""
MAX_PAYLOADS: Final = 4 * 1024 * 1024
"""Bytes of all payloads of one reading."""
MAX_NAME: Final = 200
"""Characters of a secret's name, without the VPS id."""
MAX_VPS_ID: Final = 64
"""Characters of a VPS id."""
