"""What the canary of the deployer covers, by name, and how a value may look where it must not be.

tests/unit/test_canary_lists.py fails where a route, a command, a table or a template is not on its list, and
the canary itself where one of those that are its own was not met.
"""

from __future__ import annotations

import base64
import json
import urllib.parse
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

HERE: Final = ""
"""Of a route or a command: the canary itself uses it. Anything else is the test that does."""
ROUTES: Final[Mapping[str, str]] = {
    "listVps": HERE,
    "showVps": HERE,
    "wishVps": HERE,
    "claimVps": HERE,
    "giveValue": HERE,
    "rotateVps": HERE,
    "rollbackVps": HERE,
    "emergencyVps": HERE,
    "revokeVps": HERE,
    "restoreAccess": HERE,
    "retireVps": HERE,
    "rotateMany": HERE,
    "listOperations": HERE,
    "showOperation": HERE,
    "listRotations": HERE,
    "listHistory": HERE,
    "streamEvents": HERE,
    "listBackups": HERE,
    "listChecks": HERE,
    "listBlueprints": HERE,
    "showFigures": HERE,
    "listKeys": HERE,
    "showContract": HERE,
    "showMetrics": HERE,
}
"""By operationId."""
_OF_CLOUD: Final = "tests/cloud/test_cloud_command.py"
COMMANDS: Final[Mapping[str, str]] = {
    "status": HERE,
    "report": "tests/integration/test_deployer_report.py",
    "vps add": HERE,
    "vps show": HERE,
    "vps list": HERE,
    "vps claim": HERE,
    "vps revoke": HERE,
    "vps restore-access": HERE,
    "vps retire": HERE,
    "rotate": HERE,
    "rotate-many": HERE,
    "rollback": HERE,
    "emergency": HERE,
    "compromised": HERE,
    "set": HERE,
    "operation": HERE,
    "blueprint check": HERE,
    "blueprint plan": HERE,
    "blueprint apply": HERE,
    "blueprint sql": "tests/integration/test_deployer_postgresql.py",
    "cloud plan": _OF_CLOUD,
    "cloud apply": _OF_CLOUD,
    "cloud credential": _OF_CLOUD,
    "cloud verify": "tests/cloud/test_cloud_verify.py",
    "cloud export": _OF_CLOUD,
    "import": HERE,
    "serve": HERE,
    "backup run": HERE,
    "backup prove": HERE,
    "restore": HERE,
    "adopt": "tests/integration/test_deployer_drills.py",
    "look": HERE,
    "drill": "tests/integration/test_deployer_drills.py",
    "doctor": "tests/cloud/test_deployer_doctor.py",
}
TABLES: Final = {
    *("deployment", "blueprint", "vps", "secret", "version", "rotation", "operation", "history"),
    *("check_result", "backup"),
}
"""Their files are read whole: what a new one holds must come about in the canary's story."""
TEMPLATES: Final[Mapping[str, str]] = {
    "fleet.html": "/",
    "vps.html": "/vps/{vps}",
    "operations.html": "/operations",
    "operation.html": "/operations/{operation}",
    "history.html": "/history",
    "backups.html": "/backups",
    "checks.html": "/checks",
    "problem.html": "/vps/absent",
    "frame.html": "/",
    "parts.html": "/",
}
"""A page that shows each."""
SHORTEST: Final = 8


def forms(value: bytes) -> set[bytes]:
    """Return how a value may look in a text, a file or memory, in the usual encodings."""
    found = {
        value,
        value.hex().encode(),
        value.hex().upper().encode(),
        repr(value).encode()[2:-1],
        urllib.parse.quote_from_bytes(value).encode(),
        urllib.parse.quote_from_bytes(value, safe="").encode(),
    }
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        # whatever was before it in what was encoded: one of three offsets
        for offset in range(3):
            encoded = encode(bytes(offset) + value)
            found.add(encoded[4 if offset else 0 : len(encoded) - 4])
    try:
        text = value.decode()
    except UnicodeDecodeError:
        pass
    else:
        found |= {text.encode("utf-16-le"), json.dumps(text).encode()[1:-1]}
    return {form for form in found if len(form) >= SHORTEST}


def leaks(hidden: Mapping[str, bytes], told: Mapping[str, bytes | bytearray]) -> set[tuple[str, str]]:
    """Return which kind of value is on which surface."""
    return {
        (kind, surface)
        for kind, value in hidden.items()
        for form in forms(value)
        for surface, content in told.items()
        if form in content
    }
