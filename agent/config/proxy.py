"""``[keystone] proxy``: a way out for machines that reach Keystone and Barbican through an HTTP proxy only.

The proxy is asked to connect (CONNECT) and passes bytes on: TLS goes from end to end, so it learns names and
ports, and no token and no value. ``no_proxy`` has what is reached straight. The password of a login there is
a credential and never in the file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agent.config.model import CredentialSource, Proxy
from common import addresses, proxying
from common.names import parse_name

if TYPE_CHECKING:
    from common.toml_table import Table

CREDENTIAL: Final = "proxy-password"
"""The name of the password's credential; the packaged units load it where there is one."""
NO_CREDENTIAL: Final = "none"
"""What stands behind the credential in the units where there is none (SetCredential=)."""
_NONE: Final[tuple[str, ...]] = ()


def proxy(table: Table) -> Proxy | None:
    """Return the settings in ``[keystone]``, or None where no proxy is given."""
    url = table.text("proxy", proxying.proxy_url, proxying.URL)
    exempt = table.checked("no_proxy", _NONE, proxying.exempt, proxying.EXEMPT)
    user = table.text("proxy_user", proxying.proxy_user, "must be a user's name in one word, without a colon")
    name = table.text("proxy_credential", parse_name, "must be the name of a credential of systemd's")
    file = table.path("proxy_credential_file")
    passwords = ("proxy_credential", "proxy_credential_file")
    for key in ("no_proxy", "proxy_user", *passwords):
        if table.has(key) and not table.has("proxy"):
            table.add(key, "has no effect without proxy")
        elif table.has(key) and key in passwords and not table.has("proxy_user"):
            table.add(key, "has no effect without proxy_user")
    if all(map(table.has, passwords)):
        table.add(passwords[1], f"can't be combined with {passwords[0]}")
    address = addresses.parse(url or "")
    if address is None:
        return None
    password = CredentialSource(name=None if file else name or CREDENTIAL, file=file)
    return Proxy(address.host, address.port, exempt, user, password)
