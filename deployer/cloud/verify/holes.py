"""Holes of Keystone's older releases, tried with throw-away users: it does not tell its patch level.

Both begin with an agent's credential that was stolen, and Keystone's header for services, which makes
Keystone pass the access rules over in every release. What is made goes with its user.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from deployer.cloud.calls import access, call
from deployer.cloud.verify.matrix import ANY_STATUS, SUCCESS
from deployer.cloud.verify.report import Finding, Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deployer.cloud.verify.objects import Vps

PATCH_LEVEL: Final = (
    "which patch level Keystone has: it does not tell, and not every hole can be tried (CVE-2026-90460). "
    "27.0.3, 28.0.3 and 29.0.3 have the fixes: ask the provider"
)
AUDIT: Final = (
    "whether Barbican keeps a record of who read what (CADF): it goes to the provider's message bus, which "
    "this project can't read, and has nothing of requests that end with 401. Ask the provider who keeps it"
)


def findings(auth_url: str, first: Vps, second: Vps) -> Iterator[Finding]:
    """Try what a thief of the first VPS's credential can do in Keystone; ``auth_url`` is with ``/v3``."""
    token = {"X-Service-Token": str(first.session.get_token())}
    project = access(first.session, "log in as a throw-away VPS").project_id
    url = f"{auth_url}/users/{first.user_id}/credentials/OS-EC2"
    step = "try to make an EC2 credential"
    made = call(first.session, "POST", url, step, ANY_STATUS, json={"tenant_id": project}, headers=token)
    if made.status in SUCCESS:
        yield Finding(
            "stolen-agent-outlives",
            "whoever steals a VPS's credential can make one that outlives it (EC2): Keystone is without the "
            "fix of bug 2142138. Only disabling the user ends it, as vps revoke does; ask for the fix",
            Severity.WEAKNESS,
        )
    url = f"{auth_url}/users/{second.user_id}/application_credentials"
    injected = {"user_id": first.user_id}
    step = "try to list another VPS's credentials"
    listed = call(first.session, "GET", url, step, ANY_STATUS, json=injected, headers=token)
    if listed.status in SUCCESS:
        yield Finding(
            "stolen-agent-reaches-others",
            "whoever steals a VPS's credential can list other users' credentials, and with its password "
            "delete them (CVE-2026-42999): ask for Keystone 27.0.2, 28.0.2, 29.0.2 or later",
            Severity.WEAKNESS,
        )
