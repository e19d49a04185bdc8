"""How to log in: the keystoneauth1 plugin for the configured method, and the token state that outlives it.

The token state is what ``get_auth_state()`` gives, bound to the credential that it was got with: a state of
another credential, address or project is not adopted.
"""

from __future__ import annotations

import json
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from keystoneauth1.identity import v3

from agent.config.model import Method
from agent.core.errors import CloudError, Failure, Fault, Step
from agent.core.wire import MAX_TOKEN_STATE
from agent.fetch.credential import read_secret, refuse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.config.model import Keystone


@dataclass(frozen=True, slots=True)
class Login:
    """A plugin that can log in, and what comes with it. ``ca_file`` None means the system's authorities."""

    plugin: Any
    auth_url: str
    region: str | None
    interface: str
    ca_file: str | None


def prepare(keystone: Keystone, environ: Mapping[str, str]) -> Login:
    """Return the configured way to log in; nothing is sent yet.

    Raises:
        CloudError: the credential, the clouds file or the CA file can't be used.
    """
    login = _from_clouds(keystone, environ) if keystone.method is Method.CLOUDS else _own(keystone, environ)
    if login.ca_file is not None:
        _check_authorities(login.ca_file)
    return login


def adopt(login: Login, token_state: bytes) -> None:
    """Let the plugin go on with a former token, where there is one and it is this credential's."""
    try:
        kept = json.loads(token_state) if token_state else {}
        if kept.get("credential") == login.plugin.get_cache_id():
            login.plugin.set_auth_state(kept["state"])
    except (ValueError, KeyError, TypeError, AttributeError):
        login.plugin.set_auth_state(None)  # a state that can't be used costs one login


def give_back(login: Login) -> bytes:
    """Return the token state for the next cycle; empty where there is none or it is too long."""
    state = login.plugin.get_auth_state()
    if state is None:
        return b""
    kept = json.dumps({"credential": login.plugin.get_cache_id(), "state": state}).encode()
    return kept if len(kept) <= MAX_TOKEN_STATE else b""


def _own(keystone: Keystone, environ: Mapping[str, str]) -> Login:
    secret = read_secret(keystone.credential, environ)
    auth_url = keystone.auth_url or ""
    plugin: v3.ApplicationCredential | v3.Password
    if keystone.method is Method.APPLICATION_CREDENTIAL:
        plugin = v3.ApplicationCredential(
            auth_url=auth_url,
            application_credential_id=keystone.application_credential_id,
            application_credential_secret=secret,
        )
    else:
        plugin = v3.Password(
            auth_url=auth_url,
            username=keystone.username,
            password=secret,
            user_domain_name=keystone.user_domain,
            project_name=keystone.project,
            project_domain_name=keystone.project_domain,
        )
    ca_file = None if keystone.ca_file is None else str(keystone.ca_file)
    return Login(plugin, auth_url, keystone.region, keystone.interface, ca_file)


def _from_clouds(keystone: Keystone, environ: Mapping[str, str]) -> Login:
    source = keystone.credential
    given = (source.name, source.file, source.fd) != (None, None, None)
    secret = read_secret(source, environ) if given else None
    if keystone.clouds_file is None or keystone.cloud is None:
        refuse("read clouds.yaml", "keystone.cloud and keystone.clouds_file must name the cloud and its file")
    from agent.fetch.clouds import read_cloud  # noqa: PLC0415  # PyYAML is loaded only where it is used

    cloud = read_cloud(keystone.clouds_file, keystone.cloud, secret=secret)
    plugin_class = v3.ApplicationCredential if cloud.application_credential else v3.Password
    return Login(
        plugin_class(**cloud.auth),
        cloud.auth["auth_url"],
        keystone.region or cloud.region,
        cloud.interface or keystone.interface,
        str(keystone.ca_file) if keystone.ca_file else cloud.ca_file,
    )


def _check_authorities(ca_file: str) -> None:
    problem = ""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(ca_file)
    except ssl.SSLError:
        problem = "it holds no certificate in PEM form"
    except OSError as error:
        problem = f"it can't be read ({error.strerror})"
    if problem:
        raise CloudError(Failure(Step.TLS, Fault.TRANSIENT, f"load the CA file {ca_file}", problem))
