"""``report``: the last days of the fleet as one HTML page, or as JSON.

What the agents recorded comes on standard input, as journalctl prints it; the rest is asked of the API.
With Barbican's own audit both sides are joined: what Barbican gave and no agent recorded is on top.
Records are counted as they come, so that a year of them needs no more memory than a day.
"""

from __future__ import annotations

import html
import sys
import time
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from common.durations import span
from deployer.cli import screen, status
from deployer.cli.client import NO, OK, ApiError
from deployer.core import lifetimes
from deployer.core.accesses import Accesses
from deployer.core.barbican_reads import BarbicanReads
from deployer.core.schedule import DAY_S

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator

    from deployer.cli.client import Client

SHOWN: Final = 200
"""Rows of a table; the JSON has all."""
MORE: Final = 3.0
"""So many times as many refusals as in the weeks before are a finding."""
FEW: Final = 10
LABELLED: Final = 14
"""So many days have place for words in the picture."""
_STYLE: Final = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1d2322}"
    "h1{margin-bottom:0}.quiet{color:#55605d}table{border-collapse:collapse;width:100%}"
    "td,th{text-align:left;padding:.25rem .75rem .25rem 0;border-bottom:1px solid #dedcd4}"
    "td{overflow-wrap:anywhere}"
    ".found{border-left:.3rem solid #b3261e;background:#fbe9e7;padding:.5rem 1rem;margin:.5rem 0}"
    ".well{border-left:.3rem solid #24663b;background:#e7f3ea;padding:.5rem 1rem}"
    "svg{width:100%}text{font:12px system-ui,sans-serif;fill:#55605d}"
)


class Finding(NamedTuple):
    """What somebody should look at, the records behind it, and what to do."""

    words: str
    behind: str
    remedy: str


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--days", type=int, choices=range(1, 93), default=7, metavar="N", help="default: 7")
    which.add_argument("--week", action="store_const", dest="days", const=7, help="the same as --days 7")
    parser.add_argument(
        "--barbican-audit",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="Barbican's own audit (CADF); may be repeated",
    )


def run(client: Client, options: argparse.Namespace) -> int:
    """Read the records, ask the API, and print."""
    now = time.time()
    accesses = Accesses(now, options.days)
    if not sys.stdin.isatty():
        for line in sys.stdin.buffer:
            accesses.add(line)
    given = _given(accesses, now, options.barbican_audit) if options.barbican_audit else None
    figures = client.get("figures")
    overdue = client.get("rotations", state="overdue")["items"]
    credentials = status.credentials(client, now)
    found = [
        *_of_barbican(given),
        *_of_records(accesses),
        *_of_the_deployer(figures, overdue, credentials, now),
    ]
    if options.json:
        screen.document(_as_json(accesses, given, figures, found, now))
    else:
        sys.stdout.write("\n".join(_page(accesses, given, figures, credentials, found, now=now)) + "\n")
    return OK


def _given(accesses: Accesses, now: float, files: list[Path]) -> BarbicanReads:
    """Return what Barbican's audit says, joined with the agents' records, which were read before.

    Raises:
        ApiError: a file can't be read.
    """
    from deployer.cloud.verify.objects import is_throw_away  # noqa: PLC0415  # the cloud's libraries are slow

    given = BarbicanReads(
        accesses.since,
        now,
        inf if accesses.first is None else accesses.first,
        accesses.last,
        recorded=accesses.requests.__contains__,
        verifies=is_throw_away,
    )
    for path in files:
        try:
            with path.open("rb") as file:
                for line in file:
                    given.add(line)
        except OSError as error:
            raise ApiError(f"read Barbican's audit {path}: {error.strerror}", NO) from None
    return given


def _of_barbican(given: BarbicanReads | None) -> Iterator[Finding]:
    """Yield who was given values by Barbican and is no agent of ours."""
    for who, number in given.strangers.most_common() if given else ():
        yield Finding(
            f"Barbican gave a value {number} times to {who.user} at {who.address}, and no agent recorded it",
            f"first: {given.examples[who] if given else ''}; user {who.user_id}",
            "docs/runbooks/unknown-read.md",
        )


def _of_records(accesses: Accesses) -> Iterator[Finding]:
    """Yield what is odd about who read what."""
    for reader, number in accesses.first_readers():
        yield Finding(
            f"{reader.host}: {reader.caller} read {reader.name} for the first time",
            f"reads: {number}, none before",
            "docs/runbooks/new-reader.md",
        )
    refused, before = sum(accesses.recent.refusals.values()), sum(accesses.before.refusals.values())
    usual = before / accesses.weeks_before if accesses.weeks_before >= 1 else 0.0
    if refused >= FEW and refused > MORE * usual:
        worst, number = accesses.recent.refusals.most_common(1)[0]
        yield Finding(
            f"{refused} refusals, {usual:.0f} are usual",
            f"most by {worst.caller} on {worst.host}: {number}, {worst.reason}",
            "journalctl -u vps-secrets-agent VPS_SECRETS_OUTCOME=denied on that machine",
        )
    for host in accesses.silent_hosts():
        yield Finding(
            f"{host}: no record any more",
            f"{accesses.before.hosts[host]} records before",
            "is it retired? Else its journal does not arrive: systemctl status systemd-journal-upload",
        )
    for who, number in sorted(accesses.forged.items()):
        yield Finding(
            f"{who} wrote entries that look like an agent's",
            f"{number} entries; they are not counted here",
            "docs/runbooks/vps-compromised.md",
        )


def _of_the_deployer(
    figures: dict[str, Any], overdue: list[dict[str, Any]], credentials: list[Any], now: float
) -> Iterator[Finding]:
    for one in overdue:
        late = span(now - one["due"]) if one["due"] is not None else "-"
        words = f"{one['vps']}: {', '.join(one['names'])} is late by {late}"
        yield Finding(words, one["lastError"] or "no failure is known", "docs/runbooks/rotation-late.md")
    if figures["rotations"]["unattended"]:
        words = f"{figures['rotations']['unattended']} secrets are past their date, and nobody works on them"
        yield Finding(words, "vps-secrets-deploy status", "docs/runbooks/worker-away.md")
    for place in figures["backups"]:
        if place["problem"]:
            words = f"backup {place['name']}: {place['problem']}"
            yield Finding(words, "vps-secrets-deploy status", "docs/runbooks/backup-old.md")
    for life in credentials:
        said = lifetimes.warning(life, now)
        if said:
            yield Finding(f"credential: {said}", life.name, "docs/runbooks/credential-ends.md")
    for words in figures["byHand"]:
        yield Finding(f"by hand: {words}", "vps-secrets-deploy status", "as it says")


def _as_json(
    accesses: Accesses,
    given: BarbicanReads | None,
    figures: dict[str, Any],
    found: list[Finding],
    now: float,
) -> dict[str, object]:
    return {
        "since": accesses.since,
        "until": now,
        "findings": [one._asdict() for one in found],
        "servedByDay": accesses.served_by_day,
        "refusedByDay": accesses.refused_by_day,
        "reads": [
            {**reader._asdict(), "count": number, "before": accesses.before.reads[reader]}
            for reader, number in accesses.recent.reads.most_common()
        ],
        "refusals": [
            {**one._asdict(), "count": number} for one, number in accesses.recent.refusals.most_common()
        ],
        "notToldApart": accesses.recent.others,
        "unreadable": accesses.unreadable,
        "versions": {
            "served": len(accesses.served),
            "followed": len(accesses.served & accesses.brought),
            "all": not accesses.is_full,
        },
        "barbican": None
        if given is None
        else {
            "byAgents": given.by_agents,
            "byVerify": given.by_verify,
            "outsideRecords": given.outside_records,
            "unknown": [
                {**who._asdict(), "count": number, "first": given.examples[who]}
                for who, number in given.strangers.most_common()
            ],
            "notToldApart": given.others,
            "unreadable": given.unreadable,
        },
        "deployer": figures,
    }


def _page(
    accesses: Accesses,
    given: BarbicanReads | None,
    figures: dict[str, Any],
    credentials: list[Any],
    found: list[Finding],
    *,
    now: float,
) -> Iterator[str]:
    days = f"{_day(accesses.since)} to {_day(now)}"
    yield f'<!doctype html><html lang="en"><meta charset="utf-8"><title>vps-secrets, {days}</title>'
    yield f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style>'
    yield f'<h1>vps-secrets</h1><p class="quiet">{days}, UTC. No value is in here.</p><h2>To look at</h2>'
    for one in found:
        words, behind, remedy = map(html.escape, one)
        yield f'<div class="found"><b>{words}</b><br>{behind}<br>Do: <code>{remedy}</code></div>'
    if not found:
        yield '<p class="well">Nothing.</p>'
    yield "<h2>Reads and refusals, day by day</h2>"
    yield from _chart(accesses)
    if accesses.first is None:
        yield '<p class="quiet">No record came on standard input.</p>'
    yield "<h2>Who read what</h2>"
    weeks = max(accesses.weeks_before, 1.0)
    yield from _table(
        ("machine", "caller", "secret", "reads", "usual"),
        (
            (*reader, str(number), f"{accesses.before.reads[reader] / weeks:.0f}")
            for reader, number in accesses.recent.reads.most_common(SHOWN)
        ),
    )
    yield "<h2>Refusals</h2>"
    rows = ((*one, str(number)) for one, number in accesses.recent.refusals.most_common(SHOWN))
    yield from _table(("machine", "caller", "why", "times"), rows)
    yield "<h2>From the application back to Barbican</h2>"
    yield from _table(("", "number"), _both_sides(accesses, given))
    yield "<h2>Rotations of the last 30 days, and VPSs</h2>"
    rotations = figures["rotations"]
    yield from _table(
        ("", "number"),
        [
            ("rotations in time", str(rotations["inTime"])),
            (
                "late",
                f"{rotations['late']}" + (f", by up to {span(rotations['worst'])}" * bool(rotations["late"])),
            ),
            ("given up", str(rotations["givenUp"])),
            *((f"VPSs: {look}", str(number)) for look, number in figures["vps"].items()),
        ],
    )
    yield "<h2>The deployer's credentials and backups</h2>"
    yield from _table(
        ("", ""),
        [
            *((one.name, lifetimes.words(one, now)) for one in credentials),
            *((f"backup {place['name']}", place["problem"] or "good") for place in figures["backups"]),
        ],
    )
    yield "</html>"


def _both_sides(accesses: Accesses, given: BarbicanReads | None) -> Iterator[tuple[str, str]]:
    followed = len(accesses.served & accesses.brought)
    yield "versions that applications were served", str(len(accesses.served))
    yield "of them, with the agent's record of the request that brought them", str(followed)
    if given is None:
        yield "Barbican's own audit was not given (--barbican-audit)", "-"
        return
    yield "values that Barbican gave, and an agent recorded", str(given.by_agents)
    yield "that no agent recorded", str(sum(given.strangers.values()) + given.others)
    yield "that cloud verify read of its own throw-away secrets", str(given.by_verify)
    yield "before or after all records of agents", str(given.outside_records)


def _chart(accesses: Accesses) -> Iterator[str]:
    """Yield bars: reads above the line, refusals below it, each with its number."""
    most = max(*accesses.served_by_day, *accesses.refused_by_day, 1)
    width = 700 / accesses.days
    yield '<svg viewBox="0 0 700 175" role="img" aria-label="reads and refusals by day">'
    days = enumerate(zip(accesses.served_by_day, accesses.refused_by_day, strict=True))
    for number, (served, refused) in days:
        left, up, down = number * width + 2, 90 * served / most, 40 * refused / most
        bar = f'<rect x="{left:.0f}" width="{width - 4:.0f}"'
        yield f'{bar} y="{110 - up:.1f}" height="{up:.1f}" fill="#1f5f57"/>'
        yield f'{bar} y="112" height="{down:.1f}" fill="#b3261e"/>'
        if accesses.days <= LABELLED:
            label = f"{served}" + (f" / {refused} refused" if refused else "")
            yield f'<text x="{left:.0f}" y="{104 - up:.1f}">{label}</text>'
            day = _day(accesses.since + (number + 0.5) * DAY_S)[5:]
            yield f'<text x="{left:.0f}" y="170">{day}</text>'
    yield "</svg>"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    lines = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
    if not lines:
        yield '<p class="quiet">None.</p>'
        return
    yield "<table><tr>" + "".join(f"<th>{html.escape(cell)}</th>" for cell in head) + "</tr>"
    yield from (f"<tr>{line}</tr>" for line in lines)
    yield "</table>"


def _day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d")
