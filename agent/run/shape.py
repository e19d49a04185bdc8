"""What a command gets: environment variables, files, rendered templates. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from agent.run.errors import NotYetError, RunError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PLACE: Final = re.compile(rb"\{\{\s*([A-Za-z0-9][A-Za-z0-9._-]{0,199})\s*\}\}")
_LIKE_PLACE: Final = re.compile(rb"\{\{[^{}\n]{0,220}\}\}")
_SUFFIXES: Final = (".tmpl", ".template", ".in")


def chosen(values: Mapping[str, bytes], wanted: Sequence[str]) -> dict[str, bytes]:
    """Return the values of the wanted names; of all where none is named.

    Raises:
        NotYetError: a wanted name has no value.
    """
    missing = [name for name in wanted if name not in values]
    if missing:
        raise NotYetError(
            f"no value for {', '.join(missing)}: not there yet, or no grant of this user; as root: "
            "vps-secrets explain NAME --user USER"
        )
    return {name: values[name] for name in wanted or sorted(values)}


def environment(values: Mapping[str, bytes]) -> dict[bytes, bytes]:
    """Return variables, as execve(2) takes them.

    Raises:
        RunError: a name that no shell takes for a variable's, or a value with a zero byte.
    """
    unfit = [name for name in values if not _VARIABLE.fullmatch(name)]
    if unfit:
        raise RunError(
            f"no names of environment variables: {', '.join(unfit)}; choose with --names, or --files"
        )
    zero = [name for name, value in values.items() if b"\0" in value]
    if zero:
        raise RunError(f"a zero byte can't be in the environment: {', '.join(zero)}; use --files for it")
    return {name.encode("ascii"): value for name, value in values.items()}


def rendered(template: bytes, values: Mapping[str, bytes], file: str) -> bytes:
    """Return a template with each ``{{NAME}}`` replaced by its value, byte for byte.

    Raises:
        RunError: it names a secret that there is not, or holds something else in double braces.
    """
    named = {match.decode("ascii") for match in _PLACE.findall(template)}
    unknown = sorted(named - values.keys())
    if unknown:
        raise RunError(f"{file}: no value for {', '.join(unknown)}")
    odd = [match for match in _LIKE_PLACE.findall(template) if not _PLACE.fullmatch(match)]
    if odd:
        line = template[: template.index(odd[0])].count(b"\n") + 1
        raise RunError(f"{file}, line {line}: between {{{{ and }}}} only the name of a secret can stand")
    return _PLACE.sub(lambda match: values[match[1].decode("ascii")], template)


def file_of(template: str) -> str:
    """Return the name of the file that a template becomes: ``.env`` for ``/etc/app/.env.tmpl``."""
    name = template.rpartition("/")[2]
    for suffix in _SUFFIXES:
        if name.endswith(suffix) and name != suffix:
            return name.removesuffix(suffix)
    return name
