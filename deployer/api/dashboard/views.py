"""What each page shows, as frozen values of text and numbers: the only thing that a template ever gets.

There is no field for bytes, for a row of the database, or for anything whose type is not said: no value of a
secret can be in one. Pure: rows and the time go in, a page comes out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode

from deployer.api.dashboard import words
from deployer.api.dashboard.timeline import Axis, Life, Line, Scale
from deployer.api.fleet import EXPIRES_S, LONG_S, LOOKS
from deployer.core import lifetimes
from deployer.core.model import EXTERNAL

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from deployer.api.backup_health import Health
    from deployer.api.dashboard.words import Moment
    from deployer.api.fleet import Seen
    from deployer.database.backups import BackupRow
    from deployer.database.checks import CheckRow
    from deployer.database.history import HistoryRow
    from deployer.database.operations import Operation
    from deployer.database.rotations import Figures, RotationRow
    from deployer.database.secrets import SecretRow

ATTENTION: Final = ("late", "failing", "joining", "expiring")
PLAIN: Final = ("fine", "revoked", "retired")
MEANINGS: Final = {
    "late": "past its date",
    "failing": "last look failed",
    "joining": "never served yet",
    "expiring": "a person must give a value soon",
    "fine": "nothing to do",
    "revoked": "has no access",
    "retired": "is being deleted",
}
JOINING: Final = {
    "provisioning": "the worker has not made its container",
    "joining": "its machine has not joined; there: journalctl -u vps-secrets-join",
    "waiting-for-key": "its machine has announced no key; there: journalctl -u vps-secrets-join",
    "listed": "its agent does not say that it serves; there: vps-secrets status; fetch.acknowledge = true",
}
"""What is missing, by the state of a VPS that should have served long ago, and where to look."""
STALE_BACKUP_S: Final = 2 * 86400.0


@dataclass(frozen=True, slots=True)
class Frame:
    """What is on every page."""

    title: str
    here: str
    at: str


@dataclass(frozen=True, slots=True)
class Tile:
    """How many VPSs have one look."""

    look: str
    count: str
    meaning: str
    href: str
    any: bool
    chosen: bool


@dataclass(frozen=True, slots=True)
class Card:
    """One thing besides the VPSs: ``mood`` is good, bad or none."""

    title: str
    headline: str
    detail: str
    mood: str
    href: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """How many VPSs wait too long: for a worker, and for their machine to join."""

    worker: int
    join: int


@dataclass(frozen=True, slots=True)
class FleetRow:
    """One VPS of the fleet, and why it looks so."""

    id: str
    href: str
    look: str
    why: str
    error: str
    blueprint: str
    labels: tuple[str, ...]
    next_due: Moment | None


@dataclass(frozen=True, slots=True)
class FleetPage:
    """The fleet, worst first."""

    frame: Frame
    summary: str
    calm: bool
    attention: tuple[Tile, ...]
    plain: tuple[Tile, ...]
    cards: tuple[Card, ...]
    rows: tuple[FleetRow, ...]
    looks: tuple[str, ...]
    look: str
    text: str
    label: str
    filtered: bool
    first_href: str
    next_href: str


@dataclass(frozen=True, slots=True)
class Fact:
    """A name with what belongs to it."""

    name: str
    text: str
    moment: Moment | None = None


@dataclass(frozen=True, slots=True)
class SecretLine:
    """One secret with its place on the time line."""

    name: str
    kind: str
    group: str
    state: str
    mood: str
    said: str
    created: Moment | None
    due: Moment | None
    never: bool
    line: Line


@dataclass(frozen=True, slots=True)
class RotationLine:
    """One rotation that is under way."""

    group: str
    names: tuple[str, ...]
    reason: str
    asked_by: str
    state: str
    wanted: Moment | None
    due: Moment | None
    late: bool
    attempts: int
    error: str


@dataclass(frozen=True, slots=True)
class OperationLine:
    """One operation."""

    id: str
    href: str
    kind: str
    target: str
    target_href: str
    asked_by: str
    state: str
    created: Moment | None
    changed: Moment | None
    done: int
    total: int
    error: str


@dataclass(frozen=True, slots=True)
class HistoryLine:
    """One entry of the history."""

    id: int
    at: Moment | None
    actor: str
    action: str
    vps: str
    vps_href: str
    about: tuple[Fact, ...]


@dataclass(frozen=True, slots=True)
class VpsPage:
    """One VPS."""

    frame: Frame
    id: str
    look: str
    meaning: str
    why: str
    error: str
    labels: tuple[str, ...]
    facts: tuple[Fact, ...]
    secrets: tuple[SecretLine, ...]
    axis: Axis
    rotations: tuple[RotationLine, ...]
    operations: tuple[OperationLine, ...]
    history: tuple[HistoryLine, ...]


@dataclass(frozen=True, slots=True)
class OperationsPage:
    """What was ordered."""

    frame: Frame
    rows: tuple[OperationLine, ...]


@dataclass(frozen=True, slots=True)
class OperationPage:
    """One order."""

    frame: Frame
    row: OperationLine
    facts: tuple[Fact, ...]


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """Who asked for what."""

    frame: Frame
    rows: tuple[HistoryLine, ...]
    vps: str
    next_href: str


@dataclass(frozen=True, slots=True)
class BackupLine:
    """One backup."""

    begun: Moment | None
    state: str
    mood: str
    destination: str
    object: str
    size: str
    vpses: str
    secrets: str
    proved: Moment | None
    error: str


@dataclass(frozen=True, slots=True)
class BackupsPage:
    """Backups."""

    frame: Frame
    headline: str
    mood: str
    rows: tuple[BackupLine, ...]


@dataclass(frozen=True, slots=True)
class CheckLine:
    """What one check found last."""

    name: str
    state: str
    mood: str
    at: Moment | None
    about: tuple[Fact, ...]


@dataclass(frozen=True, slots=True)
class ChecksPage:
    """What the checks found, those that failed first."""

    frame: Frame
    headline: str
    mood: str
    rows: tuple[CheckLine, ...]


@dataclass(frozen=True, slots=True)
class ProblemPage:
    """What went wrong with a page."""

    frame: Frame
    status: int
    detail: str


Page = (
    FleetPage
    | VpsPage
    | OperationsPage
    | OperationPage
    | HistoryPage
    | BackupsPage
    | ChecksPage
    | ProblemPage
)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a caller chose on the fleet's page."""

    look: str = ""
    text: str = ""
    label: str = ""
    after: str = ""

    def href(self, **changes: str) -> str:
        """Return the address of the same page with another choice; from its beginning unless ``after``."""
        chosen = {"look": self.look, "q": self.text, "label": self.label, **changes}
        query = urlencode({key: value for key, value in chosen.items() if value})
        return f"/?{query}" if query else "/"


def frame(title: str, here: str, now: float) -> Frame:
    """Return what is on every page; ``here`` is the address of its part."""
    shown = words.moment(now, now)
    return Frame(title, here, shown.exact if shown else "")


def fleet_page(
    now: float,
    asked: Asked,
    counts: Mapping[str, int],
    rows: Sequence[Seen],
    *,
    more: str | None,
    waiting: Waiting,
    besides: tuple[Card, ...],
) -> FleetPage:
    """Return the fleet's page."""
    everybody = sum(counts.values())
    need = sum(counts[look] for look in ("late", "failing", "expiring")) + waiting.join
    if waiting.worker:
        verb = "waits" if waiting.worker == 1 else "wait"
        summary = f"No worker comes: {words.number(waiting.worker)} of {words.number(everybody)} VPSs {verb}."
    elif need:
        verb = "needs" if need == 1 else "need"
        summary = f"{words.number(need)} of {words.number(everybody)} VPSs {verb} somebody."
    elif everybody:
        summary = (
            f"All {words.number(everybody)} VPSs are cared for." if everybody > 1 else "The VPS is cared for."
        )
    else:
        summary = "There is no VPS yet."

    def tiles(looks: Sequence[str]) -> tuple[Tile, ...]:
        return tuple(
            Tile(
                look,
                words.number(counts[look]),
                MEANINGS[look],
                asked.href(look="" if asked.look == look else look),
                any=bool(counts[look]),
                chosen=asked.look == look,
            )
            for look in looks
        )

    return FleetPage(
        frame=frame("Fleet", "/", now),
        summary=summary,
        calm=not (need or waiting.worker),
        attention=tiles(ATTENTION),
        plain=tiles(PLAIN),
        cards=besides,
        rows=tuple(_fleet_row(each, now) for each in rows),
        looks=LOOKS,
        look=asked.look,
        text=asked.text,
        label=asked.label,
        filtered=bool(asked.look or asked.text or asked.label),
        first_href=asked.href() if asked.after else "",
        next_href=asked.href(after=more) if more else "",
    )


def waiting_card(waiting: Waiting) -> Card:
    """Return who waits too long, and what to do."""
    title = "Waiting too long"
    if waiting.worker:
        said = (
            "for 5 minutes or more. On the deployer's machine: systemctl status vps-secrets-deployer-worker"
        )
        headline = f"{words.number(waiting.worker)} for the worker"
        return Card(title, headline, said, "bad", "/operations")
    if waiting.join:
        said = f"for {words.span(LONG_S)} or more; each row says what is missing"
        return Card(title, f"{words.number(waiting.join)} to join", said, "bad", "/?look=joining")
    return Card(title, "Nobody", "for the worker, or to join", "good", "/?look=joining")


def cards(now: float, month: Figures, checks: Sequence[CheckRow]) -> tuple[Card, ...]:
    """Return what there is to say besides the VPSs and backups."""
    late = month.late + month.given_up
    rotated = Card(
        "Rotations of 30 days",
        f"{words.share(month.in_time, month.due)} in time" if month.due else "None was due",
        f"{words.number(month.due)} were due, {words.number(late)} not in time; "
        f"{words.number(month.open)} under way",
        "bad" if late or month.unattended else "good" if month.due else "none",
        "/history",
    )
    if month.unattended:
        rotated = Card(
            rotated.title,
            rotated.headline,
            f"{words.number(month.unattended)} secrets are past their date without a rotation: "
            "the worker did not pass. Is its service running?",
            "bad",
            rotated.href,
        )
    checks = _as_of_now(checks, now)
    failed = [check for check in checks if not check.passed]
    checked = Card(
        "Checks",
        f"{len(failed)} failed" if failed else f"{len(checks)} passed" if checks else "Never run",
        ", ".join(check.name for check in failed)
        if failed
        else f"last {words.from_now(max(check.at for check in checks), now)}"
        if checks
        else "vps-secrets-deploy cloud verify tries who may do what",
        "bad" if failed else "good" if checks else "none",
        "/checks",
    )
    return rotated, checked


def backup_card(now: float, newest: Sequence[BackupRow], places: Sequence[Health]) -> Card:
    """Return how old the last good backup is, and at which place somebody is needed."""
    good = [row for row in newest if row.state in {"written", "proved"}]
    needing = [f"{place.name}: {place.problem}" for place in places if place.problem]
    if needing and good:
        when = words.from_now(good[0].begun_at, now)
        return Card("Backups", when, "; ".join(needing), "bad", "/backups")
    if not good:
        said = "; ".join(needing) or "without one, a lost database has to be adopted from Barbican"
        return Card("Backups", "None", said, "bad" if newest or needing else "none", "/backups")
    last, proved = good[0], next((row for row in good if row.proved_at is not None), None)
    said = f"proved {words.from_now(proved.proved_at or 0.0, now)}" if proved else "never proved"
    fresh = bool(places) or (now - last.begun_at < STALE_BACKUP_S and newest[0].state != "failed")
    return Card("Backups", words.from_now(last.begun_at, now), said, "good" if fresh else "bad", "/backups")


def vps_page(
    now: float,
    seen: Seen,
    secrets: Sequence[SecretRow],
    *,
    rotations: Sequence[RotationRow],
    operations: Sequence[Operation],
    history: Sequence[HistoryRow],
) -> VpsPage:
    """Return one VPS's page."""
    row = seen.vps
    lives = [Life(each.created if each.current else None, each.due, each.work_at) for each in secrets]
    scale = Scale(lives, now)
    listed = _fleet_row(seen, now)
    return VpsPage(
        frame=frame(row.id, "/", now),
        id=row.id,
        look=seen.look,
        meaning=MEANINGS[seen.look],
        why=listed.why,
        error=row.last_error if row.failures else "",
        labels=listed.labels,
        facts=(
            Fact("Blueprint", row.blueprint),
            Fact("Wanted", row.wanted),
            Fact("Wave", str(row.wave)),
            Fact("Last look", "" if row.looked_at else "never", words.moment(row.looked_at, now)),
            Fact("Agent serves since", "" if row.served_at else "never", words.moment(row.served_at, now)),
            Fact("Known since", "", words.moment(row.created_at, now)),
            Fact("Container", row.container or "none yet"),
            Fact("Account", row.user_id or "none yet"),
        ),
        secrets=tuple(
            _secret_line(each, scale.line(life), now) for each, life in zip(secrets, lives, strict=True)
        ),
        axis=scale.axis(),
        rotations=tuple(_rotation_line(each, now) for each in rotations),
        operations=tuple(operation_line(each, now) for each in operations),
        history=tuple(history_line(each, now) for each in history),
    )


def operations_page(now: float, rows: Sequence[Operation]) -> OperationsPage:
    """Return what was ordered."""
    return OperationsPage(
        frame("Operations", "/operations", now), tuple(operation_line(row, now) for row in rows)
    )


def operation_page(now: float, row: Operation) -> OperationPage:
    """Return one order."""
    return OperationPage(
        frame(f"Operation {row.kind}", "/operations", now), operation_line(row, now), _about(row.detail)
    )


def history_page(now: float, vps: str, rows: Sequence[HistoryRow], more: int | None) -> HistoryPage:
    """Return who asked for what."""
    chosen = {"vps": vps, "before": str(more)} if vps else {"before": str(more)}
    return HistoryPage(
        frame("History", "/history", now),
        tuple(history_line(row, now) for row in rows),
        vps,
        f"/history?{urlencode(chosen)}" if more is not None else "",
    )


def backups_page(now: float, rows: Sequence[BackupRow], places: Sequence[Health]) -> BackupsPage:
    """Return the backups."""
    card = backup_card(now, rows, places)
    last = "There is none" if card.headline == "None" else f"Last one {card.headline}"
    good = f"{last}; {card.detail}"
    moods = {"failed": "bad", "proved": "good"}
    lines = tuple(
        BackupLine(
            begun=words.moment(row.begun_at, now),
            state=row.state,
            mood=moods.get(row.state, "none"),
            destination=row.destination,
            object=row.object,
            size=words.size(row.size) if row.size else "",
            vpses=words.number(row.vpses),
            secrets=words.number(row.secrets),
            proved=words.moment(row.proved_at, now),
            error=row.error,
        )
        for row in rows
    )
    return BackupsPage(frame("Backups", "/backups", now), good, card.mood, lines)


def checks_page(now: float, rows: Sequence[CheckRow]) -> ChecksPage:
    """Return what the checks found."""
    rows = _as_of_now(rows, now)
    failed = sum(not row.passed for row in rows)
    headline = f"{failed} of {len(rows)} failed." if failed else f"All {len(rows)} passed."
    lines = tuple(
        CheckLine(
            row.name,
            "passed" if row.passed else "failed",
            "good" if row.passed else "bad",
            words.moment(row.at, now),
            _about(row.detail),
        )
        for row in sorted(rows, key=lambda row: (row.passed, row.name))
    )
    mood = "bad" if failed else "good"
    if not rows:
        headline, mood = "None was ever run.", "none"
    return ChecksPage(frame("Checks", "/checks", now), headline, mood, lines)


def _as_of_now(rows: Sequence[CheckRow], now: float) -> Sequence[CheckRow]:
    """Return the checks, those about credentials in words about how long they last from now on."""
    found = []
    for row in rows:
        life = lifetimes.of_check(row.name, row.at, row.detail, now)
        if life is not None:
            said = {"lasts": lifetimes.words(life, now), "to renew": life.renew}
            row = replace(row, passed=not lifetimes.warning(life, now), detail=said)  # noqa: PLW2901
        if life is not None or not row.name.startswith(lifetimes.PREFIX):
            found.append(row)
    return found


def operation_line(row: Operation, now: float) -> OperationLine:
    """Return one operation."""
    many = row.target == "*"
    return OperationLine(
        id=row.id,
        href=f"/operations/{row.id}",
        kind=row.kind,
        target="many VPSs" if many else row.target,
        target_href="" if many else f"/vps/{row.target}",
        asked_by=row.asked_by,
        state=row.state,
        created=words.moment(row.created_at, now),
        changed=words.moment(row.changed_at, now),
        done=row.done,
        total=row.total,
        error=row.error,
    )


def history_line(row: HistoryRow, now: float) -> HistoryLine:
    """Return one entry."""
    about = [Fact("secret", row.name)] if row.name else []
    return HistoryLine(
        id=row.id,
        at=words.moment(row.at, now),
        actor=row.actor,
        action=row.action,
        vps=row.vps,
        vps_href=f"/vps/{row.vps}" if row.vps else "",
        about=(*about, *_about(row.detail)),
    )


def _fleet_row(seen: Seen, now: float) -> FleetRow:
    row = seen.vps
    failed = f"{words.number(row.failures)} failed look{'' if row.failures == 1 else 's'} in a row"
    whys = {
        "late": f"due {words.from_now(seen.next_due, now)}"
        if seen.next_due
        else "a rotation is past its date",
        "failing": failed,
        "joining": f"asked for {words.from_now(row.created_at, now)}{_missing(seen, now)}",
        "expiring": f"a value is due within {words.span(EXPIRES_S)}",
        "revoked": "access was taken away",
        "retired": "being deleted",
        "fine": "",
    }
    return FleetRow(
        id=row.id,
        href=f"/vps/{row.id}",
        look=seen.look,
        why=whys[seen.look] + (f", {failed}" if seen.look == "late" and row.failures else ""),
        error=row.last_error if row.failures else seen.error,
        blueprint=row.blueprint,
        labels=tuple(f"{name}={value}" for name, value in sorted(row.labels.items())),
        next_due=words.moment(seen.next_due, now),
    )


def _missing(seen: Seen, now: float) -> str:
    """Return what a VPS lacks that should have served long ago."""
    found = JOINING.get(seen.vps.state, "") if now - seen.vps.created_at >= LONG_S else ""
    return f"; {found}" if found else ""


def _secret_line(row: SecretRow, line: Line, now: float) -> SecretLine:
    by_hand = row.kind == EXTERNAL
    if row.created is not None and (row.remark or row.current is None):
        said, mood = row.remark or "is missing: it was there", "bad"
    elif row.created is None:
        said, mood = ("waits for a value" if by_hand else "not made yet"), "soon"
    elif row.due is None:
        said, mood = "never rotates by itself", "none"
    elif row.due < now:
        said, mood = f"{words.span(now - row.due)} late", "bad"
    else:
        said = f"{'new value' if by_hand else 'rotates'} {words.from_now(row.due, now)}"
        mood = "soon" if by_hand and row.due < now + EXPIRES_S else "good"
    return SecretLine(
        name=row.name,
        kind=row.kind,
        group=row.grp if row.grp != row.name else "",
        state=row.state,
        mood=mood,
        said=said,
        created=words.moment(row.created, now),
        due=words.moment(row.due, now),
        never=row.current is not None and row.due is None,
        line=line,
    )


def _rotation_line(row: RotationRow, now: float) -> RotationLine:
    return RotationLine(
        group=row.grp,
        names=row.names,
        reason=row.reason,
        asked_by=row.asked_by,
        state=row.state,
        wanted=words.moment(row.wanted_at, now),
        due=words.moment(row.due, now),
        late=row.due is not None and row.due < now,
        attempts=row.attempts,
        error=row.last_error,
    )


def _about(detail: Mapping[str, object]) -> tuple[Fact, ...]:
    """Return what an entry says besides, each part as one text."""
    return tuple(
        Fact(str(name), _said(value)) for name, value in sorted(detail.items()) if value not in _NOTHING
    )


_NOTHING: Final[tuple[object, ...]] = (None, "", [], {})


def _said(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(_said(each) for each in value)
    if isinstance(value, dict):
        return ", ".join(f"{name}={_said(each)}" for name, each in value.items())
    return str(value)
