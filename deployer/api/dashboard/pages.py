"""The pages: each address asks the database once, and shows what it said. Nothing here changes anything."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from common.names import parse_vps_id
from deployer.api import backup_health, fleet
from deployer.api.answering import PAGE, TextAnswer
from deployer.api.dashboard import views
from deployer.api.dashboard.views import Asked
from deployer.api.fleet import LOOKS, Wanted
from deployer.api.handlers import MONTH_S, operations_of
from deployer.api.problems import (
    BAD_PARAMETER,
    METHOD_NOT_ALLOWED,
    NO_SUCH_OPERATION,
    NO_SUCH_PATH,
    NO_SUCH_VPS,
    RequestError,
)
from deployer.database import backups, checks, history, operations, rotations, secrets

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy.engine import Connection

    from deployer.api.dashboard.views import Page
    from deployer.api.desk import Desk
    from deployer.config.model import Backup

FOLDER: Final = Path(__file__).parent
ROWS: Final = 100
HTML: Final = "text/html; charset=utf-8"
ASSETS: Final = {"/style.css": "text/css; charset=utf-8", "/icon.svg": "image/svg+xml"}
_PATH: Final = re.compile(r"/|/vps/[^/]+|/operations(?:/[^/]+)?|/history|/backups|/checks")
_OPERATION: Final = re.compile(r"[0-9a-f-]{36}")
_TEMPLATES: Final = {
    views.FleetPage: "fleet.html",
    views.VpsPage: "vps.html",
    views.OperationsPage: "operations.html",
    views.OperationPage: "operation.html",
    views.HistoryPage: "history.html",
    views.BackupsPage: "backups.html",
    views.ChecksPage: "checks.html",
    views.ProblemPage: "problem.html",
}
_FIELDS: Final = ("look", "q", "label", "after", "vps", "before")
_MOST_TEXT: Final = 128
_LABEL: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}=[A-Za-z0-9._:@/-]{0,63}")


class Pages:
    """Answers for people."""

    def __init__(self, desk: Desk, places: Sequence[Backup]) -> None:
        self._desk: Final = desk
        self._places: Final = places
        environment = Environment(
            loader=FileSystemLoader(FOLDER / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates: Final = {kind: environment.get_template(name) for kind, name in _TEMPLATES.items()}
        self._assets: Final = {path: (FOLDER / path[1:]).read_text() for path in ASSETS}

    def has(self, path: str) -> bool:
        """Return whether an address is one of ours."""
        return path in ASSETS or _PATH.fullmatch(path) is not None

    async def answer(self, method: str, path: str, untrusted_query: str) -> TextAnswer:
        """Return a page, or what it needs.

        Raises:
            RequestError: there is no such page, or VPS, or operation.
        """
        if method not in {"GET", "HEAD"}:
            raise RequestError(METHOD_NOT_ALLOWED, "pages are only shown", allow="GET, HEAD")
        if path in ASSETS:
            return TextAnswer(self._assets[path], ASSETS[path], headers=PAGE)
        query = _query(untrusted_query)
        page = await self._desk.read(lambda c, now: _page(c, now, path, query, self._places))
        return self.render(page)

    def problem(self, error: RequestError) -> TextAnswer:
        """Return a problem as a page."""
        title = error.problem.title
        shown = views.ProblemPage(
            views.frame(title, "", self._desk.clock()), error.problem.status, error.detail
        )
        allow = {"Allow": error.allow} if error.allow else {}
        return replace(self.render(shown), status=error.problem.status, headers={**PAGE, **allow})

    def render(self, page: Page) -> TextAnswer:
        """Return a page as HTML; a template gets nothing else."""
        text = self._templates[type(page)].render(page=page)
        return TextAnswer(text, HTML, headers=PAGE)


def _page(c: Connection, now: float, path: str, query: Mapping[str, str], places: Sequence[Backup]) -> Page:
    part, _, name = path[1:].partition("/")
    if part == "vps":
        return _vps(c, now, name)
    if part == "operations" and name:
        row = operations.get(c, name) if _OPERATION.fullmatch(name) else None
        if row is None:
            raise RequestError(NO_SUCH_OPERATION)
        return views.operation_page(now, row)
    if part == "operations":
        return views.operations_page(now, operations_of(c, None, None, ROWS))
    if part == "history":
        return _history(c, now, query)
    if part == "checks":
        return views.checks_page(now, checks.latest(c))
    if part == "backups":
        return views.backups_page(now, backups.page(c, ROWS), backup_health.health(c, now, places))
    if part:
        raise RequestError(NO_SUCH_PATH)
    return _fleet(c, now, query, places)


def _fleet(c: Connection, now: float, query: Mapping[str, str], places: Sequence[Backup]) -> Page:
    asked = Asked(query.get("look", ""), query.get("q", ""), query.get("label", ""), query.get("after", ""))
    if asked.look and asked.look not in LOOKS:
        raise RequestError(BAD_PARAMETER, f"look is one of {', '.join(LOOKS)}")
    if asked.label and not _LABEL.fullmatch(asked.label):
        raise RequestError(BAD_PARAMETER, "a label is written KEY=VALUE")
    name, _, value = asked.label.partition("=")
    wanted = Wanted(asked.look or None, (name, value) if asked.label else None, asked.text)
    rows, more = fleet.worst_first(c, now, wanted, asked.after, ROWS)
    month = rotations.figures(c, now, now - MONTH_S)
    kept = views.backup_card(now, backups.page(c, 10), backup_health.health(c, now, places))
    waiting = views.Waiting(operations.waiting(c, now), fleet.joining_long(c, now))
    cards = (views.waiting_card(waiting), *views.cards(now, month, checks.latest(c)), kept)
    counts = fleet.counts(c, now)
    return views.fleet_page(now, asked, counts, rows, more=more, waiting=waiting, besides=cards)


def _vps(c: Connection, now: float, untrusted_id: str) -> Page:
    vps_id = parse_vps_id(untrusted_id)
    seen = fleet.one(c, now, vps_id) if vps_id else None
    if seen is None or vps_id is None:
        raise RequestError(NO_SUCH_VPS, "It may have been retired; the history knows.")
    return views.vps_page(
        now,
        seen,
        secrets.of(c, vps_id),
        rotations=rotations.open_of(c, vps_id),
        operations=operations_of(c, vps_id, None, 10),
        history=history.page(c, vps=vps_id, limit=20),
    )


def _history(c: Connection, now: float, query: Mapping[str, str]) -> Page:
    vps, before = query.get("vps", ""), query.get("before", "")
    if (vps and not parse_vps_id(vps)) or (before and not re.fullmatch(r"[0-9]{1,15}", before)):
        raise RequestError(BAD_PARAMETER, "vps is an id, before a number")
    at = int(before) if before else None
    rows = history.page(c, vps=vps or None, before=at, limit=ROWS + 1)
    more = rows[ROWS - 1].id if len(rows) > ROWS else None
    return views.history_page(now, vps, rows[:ROWS], more)


def _query(untrusted: str) -> dict[str, str]:
    """Return what a form sent: known fields, each once, short, in one line. An empty one is none."""
    found: dict[str, str] | None = None
    try:
        pairs = parse_qsl(untrusted, errors="strict", max_num_fields=len(_FIELDS) + 1)
        found = dict(pairs)
    except ValueError:
        pairs = []
    if found is None or len(found) != len(pairs) or not found.keys() <= set(_FIELDS):
        raise RequestError(BAD_PARAMETER, "this page has other parameters")
    if any(len(value) > _MOST_TEXT or not value.isprintable() for value in found.values()):
        raise RequestError(BAD_PARAMETER, f"a parameter is one line of at most {_MOST_TEXT} characters")
    return {name: value.strip() for name, value in found.items()}
