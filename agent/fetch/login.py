"""How to log in: the keystoneauth1 plugin for the configured method, and a token that it goes on with."""

from __future__ import annotations

import contextlib
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from keystoneauth1.identity import v3

from agent.config import addresses
from agent.config.model import Method
from agent.core import renewal
from agent.core.errors import CloudError, Failure, Fault, Step
from agent.fetch import token_state
from agent.fetch.credential import read_secret, refuse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.config.model import Keystone
    from agent.fetch.token_state import TokenState

OBJECT_STORE: Final = "object-store"
"""Where a beacon may be that is read with this account's token."""


@dataclass(frozen=True, slots=True)
class Login:
    """A plugin that can log in, and what comes with it. ``ca_file`` None means the system's authorities.

    ``service_types`` are those of the catalog that are needed. ``holder`` tells whose a token state is.
    """

    plugin: Any
    auth_url: str
    region: str | None
    interface: str
    ca_file: str | None
    service_types: tuple[str, ...]

    @property
    def holder(self) -> str:
        """A text that is the same for the same credential, address, project and services."""
        return " ".join((self.plugin.get_cache_id(), *self.service_types))


def prepare(keystone: Keystone, environ: Mapping[str, str]) -> Login:
    """Return the configured way to log in; nothing is sent yet.

    Raises:
        CloudError: the credential, the clouds file or the CA file can't be used.
    """
    login = _from_clouds(keystone, environ) if keystone.method is Method.CLOUDS else _own(keystone, environ)
    if login.ca_file is not None:
        _check_authorities(login.ca_file)
    return login


def adopt(login: Login, kept: TokenState) -> None:
    """Let the plugin go on with a former token, where there is one."""
    try:
        login.plugin.set_auth_state(kept.auth)
        if kept.auth is not None:
            login.plugin.auth_ref.will_expire_soon()  # raises where it can't be used
    except Exception:  # noqa: BLE001  # keystoneauth1 over JSON that it did not expect: it costs one login
        login.plugin.set_auth_state(None)


def allow_for(login: Login, skew: float) -> None:
    """Judge a token's life by Keystone's clock where ours is ahead of it by ``-skew`` (s).

    keystoneauth1 would take every new token for expired, and log in before each call.
    """
    login.plugin.MIN_TOKEN_LIFE_SECONDS += min(0.0, skew)


def give_back(login: Login) -> str | None:
    """Return the token for the next cycle, as :func:`adopt` takes it, or None where there is none."""
    access = login.plugin.auth_ref
    with contextlib.suppress(Exception):  # a token's answer that is not as documented is not kept
        return None if access is None else token_state.shortened(access, login.service_types)
    return None


def _own(keystone: Keystone, environ: Mapping[str, str]) -> Login:
    secret = read_secret(keystone.credential, environ)
    auth_url = keystone.auth_url or ""
    plugin: v3.ApplicationCredential | v3.Password
    if keystone.method is Method.APPLICATION_CREDENTIAL:
        renewed = renewal.pair(secret)  # the renewal keeps both in one file
        plugin = v3.ApplicationCredential(
            auth_url=auth_url,
            application_credential_id=renewed.id if renewed else keystone.application_credential_id,
            application_credential_secret=renewed.secret if renewed else secret,
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
    services = _service_types(keystone)
    return Login(plugin, auth_url, keystone.region, keystone.interface, ca_file, services)


def _service_types(keystone: Keystone) -> tuple[str, ...]:
    return keystone.service_type, OBJECT_STORE


def _from_clouds(keystone: Keystone, environ: Mapping[str, str]) -> Login:
    source = keystone.credential
    given = (source.name, source.file, source.fd) != (None, None, None)
    secret = read_secret(source, environ) if given else None
    if keystone.clouds_file is None or keystone.cloud is None:
        refuse("read clouds.yaml", "keystone.cloud and keystone.clouds_file must name the cloud and its file")
    from agent.fetch.clouds import read_cloud  # noqa: PLC0415  # PyYAML is loaded only where it is used

    cloud = read_cloud(keystone.clouds_file, keystone.cloud, secret=secret)
    auth_url = addresses.keystone(cloud.auth["auth_url"])
    if auth_url is None:
        tried = f"read cloud {keystone.cloud} of {keystone.clouds_file}"
        refuse(tried, "auth_url must be an https:// URL, with its version /v3 or without any")
    plugin_class = v3.ApplicationCredential if cloud.application_credential else v3.Password
    return Login(
        plugin_class(**cloud.auth | {"auth_url": auth_url}),
        auth_url,
        keystone.region or cloud.region,
        cloud.interface or keystone.interface,
        str(keystone.ca_file) if keystone.ca_file else cloud.ca_file,
        _service_types(keystone),
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
