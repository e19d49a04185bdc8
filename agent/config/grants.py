"""The ``[[grant]]`` tables: who may read what, as written, without rules that change nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final

from common.toml_table import account

if TYPE_CHECKING:
    from common.toml_table import Table

_UNIT: Final = re.compile(r"[A-Za-z0-9:_.\\@-]{1,240}\.(service|scope|socket|timer)")
_GLOB: Final = re.compile(r"[A-Za-z0-9._*?\[\]!-]{1,200}")
_WILD: Final = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class GrantRule:
    """One ``[[grant]]`` as written; serve resolves user and group to ids."""

    secrets: tuple[str, ...]
    user: str | None
    group: str | None
    unit: str | None

    def covers(self, name: str) -> bool:
        """Return whether a name is one of its secrets."""
        return any(fnmatchcase(name, glob) for glob in self.secrets)

    def includes(self, other: GrantRule) -> bool:
        """Return whether everything that the other one allows is allowed by this one.

        Of two patterns the plain cases are seen: the same text, ``*``, and a name that a pattern matches.
        """
        callers = zip((self.user, self.group, self.unit), (other.user, other.group, other.unit), strict=True)
        return all(ours in {None, theirs} for ours, theirs in callers) and all(
            any(_includes(ours, theirs) for ours in self.secrets) for theirs in other.secrets
        )


def _includes(ours: str, theirs: str) -> bool:
    return ours in {"*", theirs} or (not _WILD.search(theirs) and fnmatchcase(theirs, ours))


def grants(top: Table) -> tuple[GrantRule, ...]:
    """Return every grant of the file.

    A grant that another one includes is a mistake: grants only add, so two that seem to contradict each other
    mean that somebody expects a narrower one to win, which it does not.
    """
    tables = list(top.tables("grant"))
    rules = [_grant(table) for table in tables]
    for at, rule in enumerate(rules):
        for other_at, other in enumerate(rules):
            if at == other_at or not rule.secrets or not other.includes(rule):
                continue
            if other_at < at or not rule.includes(other):
                tables[at].add("", f"has no effect: grant {other_at + 1} allows all of it; grants only add")
                break
    return tuple(rules)


def _grant(table: Table) -> GrantRule:
    rule = GrantRule(
        secrets=table.texts(
            "secrets",
            lambda text: text if _GLOB.fullmatch(text) else None,
            'must be a list of names without the VPS id, * and ? allowed, such as ["*"]',
        ),
        user=table.text("user", account, "must be the name of a user"),
        group=table.text("group", account, "must be the name of a group"),
        unit=table.text(
            "unit",
            lambda text: text if _UNIT.fullmatch(text) else None,
            'must be the full name of a unit, such as "recruitiq.service"',
        ),
    )
    if not any(table.has(key) for key in ("user", "group", "unit")):
        table.add("", "needs user, group or unit: who may read")
    table.finish()
    return rule
