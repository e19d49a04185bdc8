"""The configuration that ``vps-secrets setup`` writes: a new one, or the former one with what was given.

Pure: text in, text out. What was not given stays as it was, comments too (tomlkit keeps them); the result is
read again with the standard library's parser and must differ from the former in what was given only.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import tomlkit
from tomlkit.exceptions import TOMLKitError

if TYPE_CHECKING:
    from collections.abc import MutableMapping

CREDENTIAL_NAME: Final = "keystone-credential"
FETCH_SOCKET: Final = "/run/vps-secrets/fetch.sock"
_NEW: Final = f"""\
# Written by vps-secrets setup; every key is explained in vps-secrets-agent.toml(5).

[keystone]

[fetch]
socket = "{FETCH_SOCKET}"
"""
_OTHER_LOGINS: Final = (
    *("username", "user_domain", "project", "project_domain", "cloud", "clouds_file"),
    *("credential_file", "credential_fd"),
)


class UnchangeableError(Exception):
    """The former file can't be changed by a program; the text says why."""


@dataclass(frozen=True, slots=True)
class Given:
    """What the operator gave; None is not given."""

    vps_id: str | None = None
    container: str | None = None
    auth_url: str | None = None
    application_credential_id: str | None = None
    region: str | None = None
    interface: str | None = None
    ca_file: str | None = None
    proxy: str | None = None
    user: str | None = None
    unit: str | None = None
    secrets: tuple[str, ...] | None = None
    acknowledge: bool | None = None
    require_sealed: bool | None = None

    def who(self) -> dict[str, str]:
        """Return the application as a grant names it."""
        return {key: name for key, name in (("user", self.user), ("unit", self.unit)) if name}


def read(text: str) -> dict[str, Any]:
    """Return the former configuration.

    Raises:
        UnchangeableError: it is not TOML.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        reason = str(error)
    raise UnchangeableError(f"it is not TOML ({reason}): fix it, or move it away")


def changed(former: str | None, given: Given) -> str:
    """Return the file with what was given; ``former`` is None where there is none.

    Raises:
        UnchangeableError: the former is not TOML, or what was given has no place in it.
    """
    text = _NEW if former is None else former
    expected = read(text)
    try:
        document = tomlkit.parse(text)
        _change(expected, given)
        _change(document, given)
        result = tomlkit.dumps(document)
    except (
        TOMLKitError,
        AttributeError,
        TypeError,
        ValueError,
    ):  # a table is expected, something else is there
        raise UnchangeableError("its tables are not as expected: change it by hand") from None
    if read(result) != expected:
        raise UnchangeableError("it is written in a way that can't be kept: change it by hand")
    return result


def _change(document: MutableMapping[str, Any], given: Given) -> None:
    """Make the change, in plain dicts and in tomlkit's alike."""
    for key in ("vps_id", "container"):
        _set(document, key, getattr(given, key))
    keystone = document.setdefault("keystone", {})
    if given.application_credential_id is not None:
        for key in _OTHER_LOGINS:
            keystone.pop(key, None)
    for key in ("auth_url", "application_credential_id"):
        _set(keystone, key, getattr(given, key))
    if given.application_credential_id is not None:
        _set(keystone, "credential", CREDENTIAL_NAME)
    for key in ("region", "interface", "ca_file", "proxy"):
        _set(keystone, key, getattr(given, key))
    for key in ("acknowledge", "require_sealed"):
        if getattr(given, key) is not None:
            document.setdefault("fetch", {})[key] = getattr(given, key)
    _grant(document, given)


def added(former: str, given: Given) -> str:
    """Return the file with one grant more, for another application; all others stay as they are.

    Raises:
        UnchangeableError: it is not TOML, or the application has a grant already.
    """
    expected, who = read(former), given.who()
    if any(_who(grant) == who for grant in expected.get("grant", ())):
        words = " ".join(f"{key} {name}" for key, name in who.items())
        raise UnchangeableError(f"{words} has a grant already: change it there, or with setup --replace")
    grant = {**who, "secrets": list(given.secrets or ("*",))}
    expected.setdefault("grant", []).append(grant)
    lines = "".join(f"{key} = {tomlkit.item(content).as_string()}\n" for key, content in grant.items())
    result = f"{former.rstrip()}\n\n# written by vps-secrets setup --add\n[[grant]]\n{lines}"
    if read(result) != expected:
        raise UnchangeableError("it is written in a way that can't be kept: change it by hand")
    return result


def _set(table: MutableMapping[str, Any], key: str, value: str | None) -> None:
    if value is not None and table.get(key) != value:
        table[key] = value


def _grant(document: MutableMapping[str, Any], given: Given) -> None:
    """Have the first grant, which is that of setup, name the application; others are left alone."""
    who, names = given.who(), given.secrets
    if not document.get("grant"):
        if who:
            document["grant"] = [{**who, "secrets": list(names or ("*",))}]
        return
    grants = document["grant"]
    ours = next((grant for grant in grants if who and _who(grant) == who), grants[0])
    if who and _who(ours) != who:
        for key in {"user", "group", "unit"} - who.keys():
            ours.pop(key, None)
        for key, name in who.items():
            _set(ours, key, name)
    if names is not None and list(ours.get("secrets", ())) != list(names):
        ours["secrets"] = list(names)


def _who(grant: MutableMapping[str, Any]) -> dict[str, str]:
    return {key: str(grant[key]) for key in ("user", "group", "unit") if key in grant}
