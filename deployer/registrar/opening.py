"""From deployer.toml to the users: reads the credentials, which exist in this one process only."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from keystoneauth1.identity import v3
from keystoneauth1.session import Session

from common.errors import ConfigurationError, Mistake
from common.untrusted_json import MalformedError
from deployer import peers
from deployer.cloud.identity import Identity, domain_of
from deployer.config import credentials
from deployer.config.credentials import CredentialError
from deployer.registrar import one_time, pool
from deployer.registrar.domain import Domain
from deployer.registrar.pool import Pool
from deployer.registrar.requests import Callers

if TYPE_CHECKING:
    from deployer.config.model import Config, Keystone, Registrar
    from deployer.registrar.requests import Users


def callers(config: Config) -> Callers:
    """Return who may ask.

    Raises:
        ConfigurationError: a user of the configuration is none of this machine.
    """
    registrar = config.registrar
    api, worker = (
        peers.uids(config.path, f"registrar.{key}", name)
        for key, name in (("api_user", registrar.api_user), ("worker_user", registrar.worker_user))
    )
    return Callers(frozenset({os.getuid(), peers.ROOT_UID}) | api, worker)


def users(config: Config) -> Users:
    """Return the users of the configured domain or pool.

    Raises:
        ConfigurationError, CredentialError, CloudError: it can't be used.
    """
    keystone = config.keystone
    if keystone is None:
        raise ConfigurationError((Mistake(str(config.path), "keystone", "is missing"),))
    if config.registrar.pool is not None:
        members = _pool_members(credentials.read(config.registrar.pool, os.environ))
        return Pool(
            Identity(_session(keystone, None), keystone.auth_url), members, config.registrar.pool_state
        )
    key = credentials.read(config.registrar.key, os.environ)
    if len(key) < one_time.MIN_KEY:
        raise CredentialError(f"the registrar's key has less than {one_time.MIN_KEY} bytes")
    session = _session(keystone, _login(config.registrar, keystone.auth_url))
    return Domain(
        Identity(session, keystone.auth_url), domain_of(session), config.registrar.project, key, config.path
    )


def pool_users(config: Config) -> dict[str, str]:
    """Return which users of the pool were given to VPSs, ids with the VPSs' names, for ``cloud verify``.

    Raises:
        CredentialError: the file that says so can't be read; RefusalError: it is damaged.
    """
    state, problem = config.registrar.pool_state, ""
    if config.keystone is None or not state.exists():  # who made it here would keep the registrar from it
        return {}
    try:
        return Pool(Identity(_session(config.keystone, None), config.keystone.auth_url), {}, state).users()
    except OSError as error:
        problem = str(error.strerror)
    raise CredentialError(f"read {state}: {problem}")


def manager(config: Config) -> Session:
    """Return a session of the domain's manager, for ``cloud verify``; it logs in at its first call.

    Raises:
        ConfigurationError, CredentialError: it can't be used.
    """
    if config.keystone is None:
        raise ConfigurationError((Mistake(str(config.path), "keystone", "is missing"),))
    return _session(config.keystone, _login(config.registrar, config.keystone.auth_url))


def _login(registrar: Registrar, auth_url: str) -> v3.Password:
    """Return the login of the domain's manager; an application credential can't be for a domain."""
    try:
        password = credentials.read(registrar.credential, os.environ).decode("utf-8")
    except UnicodeDecodeError:
        password = ""
    if not password:
        raise CredentialError("the registrar's password is not UTF-8 text")
    return v3.Password(
        auth_url=auth_url,
        username=registrar.username,
        user_domain_name=registrar.user_domain,
        password=password,
        domain_name=registrar.domain,
    )


def _session(keystone: Keystone, login: v3.Password | None) -> Session:
    verify = str(keystone.ca_file) if keystone.ca_file else True
    return Session(auth=login, verify=verify, timeout=keystone.timeout, user_agent="vps-secrets-registrar")


def _pool_members(content: bytes) -> dict[str, pool.Member]:
    try:
        return pool.parse_members(content)
    except MalformedError as error:
        problem = str(error)
    raise CredentialError(f"the pool: {problem}")
