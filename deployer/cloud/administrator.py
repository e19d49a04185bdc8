"""The session of a cloud administrator, by a token: no password of a person reaches this program."""

from __future__ import annotations

from typing import TypeAlias

from keystoneauth1.session import Session
from keystoneauth1.token_endpoint import Token

Administrator: TypeAlias = Session
"""A session that may make domains, projects, users and roles."""


def session(auth_url: str, token: str, ca_file: str | None, timeout: float) -> Administrator:
    """Return a session that uses this token, as ``openstack token issue`` prints it, for Keystone."""
    return Session(auth=Token(auth_url, token), verify=ca_file or True, timeout=timeout)
