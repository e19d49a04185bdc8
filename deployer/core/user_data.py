"""The user data of a new machine: what cloud-init does with a claim. Pure.

JSON is YAML, so nothing has to be quoted by hand. The machine's package has the unit that is started; it
waits for what is not there yet and goes on after a restart, so cloud-init waits for nothing.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

CLAIM: Final = "/var/lib/vps-secrets-join/claim.json"
UNIT: Final = "vps-secrets-join.service"


def cloud_config(claim: Mapping[str, object]) -> str:
    """Return ``#cloud-config`` for the machine that this claim is for. Not to be logged.

    cloud-init keeps it below /var/lib/cloud, readable for root. Once the machine has claimed its identity,
    the password in it is worthless.
    """
    content = {
        "write_files": [
            {"path": CLAIM, "owner": "root:root", "permissions": "0600", "content": json.dumps(dict(claim))}
        ],
        "runcmd": [["systemctl", "start", "--no-block", UNIT]],
    }
    return f"#cloud-config\n{json.dumps(content, indent=1)}\n"
