"""``status``: the fleet in a few lines, worst first; its exit status is for monitoring."""

from __future__ import annotations

import time
from math import inf
from typing import TYPE_CHECKING, Any, Final

from common.durations import span
from deployer.cli import screen
from deployer.cli.client import NO, OK
from deployer.core import lifetimes

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from deployer.cli.client import Client

NEEDS_SOMEBODY: Final = ("late", "failing")
SHOWN: Final = 20


def run(client: Client, options: argparse.Namespace) -> int:
    """Show how many VPSs look how, and what needs somebody; exit with 1 where anything does."""
    figures = client.get("figures")
    looks: dict[str, int] = figures["vps"]
    rotations = figures["rotations"]
    places = [place for place in figures["backups"] if place["problem"]]
    now = time.time()
    lives = credentials(client, now)
    warnings = [said for one in lives if (said := lifetimes.warning(one, now))]
    left = figures["waiting"] + rotations["unattended"]
    needing = sum(looks[look] for look in NEEDS_SOMEBODY) + len(warnings) + len(places) + left
    if options.json:
        screen.document(figures | {"credentials": {one.name: one.detail() for one in lives}})
        return NO if needing else OK
    print("VPSs: " + (", ".join(f"{count} {look}" for look, count in looks.items() if count) or "none"))
    print(
        f"rotations: {rotations['due']} were due, {rotations['inTime']} in time, {rotations['late']} late"
        + (f" (worst by {span(rotations['worst'])})" if rotations["late"] else "")
        + f", {rotations['open']} open, {rotations['givenUp']} given up"
    )
    for words in waits(figures):
        print(words)
    for place in places:
        print(f"backup {place['name']}: {place['problem']}")
    for said in warnings:
        print(f"credential: {said}")
    if lives and not warnings:
        first = min(lives, key=lambda one: inf if one.ends is None else one.ends)
        lasts = lifetimes.words(first, now)
        print(f"credentials of the deployer: {len(lives)}; first: {first.name}, {lasts}")
    for look in NEEDS_SOMEBODY:
        for one in client.get("vps", state=look, limit=SHOWN)["items"] if looks[look] else ():
            due, why = screen.until(one["nextDue"], now), one["lastError"] or "no failure is known"
            print(f"{look}: {one['id']}: next due {due}; {why}")
    return NO if needing else OK


def waits(figures: dict[str, Any]) -> Iterator[str]:
    """Say what waits for somebody besides VPSs that are late or failing, and what to do."""
    unattended = figures["rotations"]["unattended"]
    if figures["waiting"] or unattended:
        yield (
            f"the worker does not come: {figures['waiting']} VPSs wait for it for 5 minutes or more, "
            f"{unattended} secrets are past their date; see: systemctl status vps-secrets-deployer-worker"
        )
    if figures["joiningLong"]:
        yield (
            f"{figures['joiningLong']} VPSs were asked for an hour ago or longer and never served; what is "
            "missing: vps-secrets-deploy vps show VPS, and on the machine: journalctl -u vps-secrets-join"
        )
    if figures["rotations"]["external"]:
        yield f"{figures['rotations']['external']} values that only a person can give are past their date"
    for words in figures["byHand"]:
        yield f"by hand, of the last 7 days: {words}"


def credentials(client: Client, now: float) -> list[lifetimes.Lifetime]:
    """Return how long the deployer's own credentials last."""
    checks = client.get("checks")["items"]
    found = (lifetimes.of_check(each["name"], each["at"], each["detail"], now) for each in checks)
    return [one for one in found if one is not None]
