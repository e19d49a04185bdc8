"""``make fleet``: simulate a fleet's bad days; print what they come to, write them as JSON for the picture.

``--measure`` asks the testbed what it bears and writes it down; ``--real N`` runs the cycles of N real agents
there and the same in the model, to tell how far the model is off.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agent.core.schedule import COLD_CALLS, LISTED_CALLS, Pace, fleet_spread
from lab.fleet.scenarios import (
    BARBICAN,
    BOOT_S,
    KEYSTONE,
    Scenario,
    Summary,
    all_of,
    fleet_of,
    most,
    served_shares,
    summary,
    without_remedy,
)
from lab.fleet.simulation import Events, Fleet, Outcome, Simulation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab.fleet.cloud import Capacity

TESTBED: Final = Path(__file__).with_name("testbed.json")
MILLION: Final = 1_000_000
SIZES: Final = (100, 1000, 5000, 7000, 10_000, 12_000)
HEAD: Final = (
    f"{'':<24} {'VPSs':>9} {'calls':>5} {'last':>7} {'peak/s':>7} {'10 s':>6} {'queue':>6} {'failed':>8}"
    f" {'starved':>7} | {'mean/s':>7} {'peak 1 s':>11} {'peak 10 s':>11} {'dispersion':>10} {'swing':>6}"
)


def simulate(scenario: Scenario) -> tuple[Summary, Outcome]:
    """Run one scenario, showing how far it is, and print its line."""

    def progress(now: float) -> None:
        if sys.stderr.isatty():
            share = now / (scenario.at + scenario.after)
            print(f"\r{scenario.name}: {share:4.0%}", end="\r", file=sys.stderr, flush=True)

    outcome = scenario.run(progress)
    found = summary(scenario, outcome)
    print(line(scenario, found), flush=True)
    return found, outcome


def line(scenario: Scenario, found: Summary) -> str:
    """Return a scenario's line. Beside each peak over the mean stands what chance alone gives."""
    left, waves = f" {found.unserved} never" if found.unserved else "", found.waves
    return (
        f"{scenario.name:<24} {scenario.fleet.vps:>9,} {scenario.fleet.calls:>5} {found.last:>6.0f}s"
        f" {found.peak_1:>7,.0f} {found.peak_10:>6,.0f} {found.queue:>5.1f}s {found.failed:>8,}"
        f" {found.starved:>6.0f}s | {waves.mean:>7.1f} {waves.peak_1:>5.2f} ({waves.chance_1:.2f})"
        f" {waves.peak_10:>5.2f} ({waves.chance_10:.2f}) {waves.dispersion:>10.2f} {waves.swing:>6.1%}{left}"
    )


def drawn(scenario: Scenario, found: Summary, outcome: Outcome) -> dict[str, Any]:
    """Return what the picture needs."""
    return {
        "text": scenario.text,
        "vps": scenario.fleet.vps,
        "calls": scenario.fleet.calls,
        "at": scenario.at,
        "outage": scenario.barbican.outage,
        "capacity": scenario.barbican.rate,
        "load": list(outcome.barbican.load),
        "refused": list(outcome.barbican.refused),
        "served": served_shares(outcome, scenario.fleet.vps),
        "summary": asdict(found),
    }


def promise(barbican: Capacity) -> Iterator[str]:
    """Yield, for each fleet size and cost of a start, whether a boot storm ends as promised."""
    for calls in (LISTED_CALLS, COLD_CALLS):
        for vps in SIZES:
            boot = all_of(fleet_of(vps, calls), barbican, hours=1.5)[0]
            found = summary(boot, boot.run())
            kept = "kept" if found.keeps_promise(barbican.rate) else "NOT KEPT"
            result = f"last after {found.last:>4.0f} s, peak {found.peak_10:>4.0f}/s"
            yield f"{vps:>7,} VPSs, {calls:>2} calls: {result}: {kept}"


def real(agents: int, spread: float | None) -> None:
    """Run real agents on the testbed, right after measuring it, and the same in the model."""
    from lab.fleet import measure  # noqa: PLC0415  # only here are the agent's libraries needed
    from lab.fleet.real import RealFleet  # noqa: PLC0415
    from lab.testbed.cloud import Cloud  # noqa: PLC0415

    with Cloud() as cloud:
        measured = measure.measure(cloud)
        barbican, keystone = (measure.capacity(measured[name]) for name in ("barbican", "keystone"))
        print(f"borne: {barbican.rate:.0f} requests to Barbican and {keystone.rate:.0f} logins a second")
        jitter = fleet_spread(agents) if spread is None else spread
        pace = Pace(start_jitter=jitter, spread=fleet_spread(agents))
        seen = RealFleet(cloud, agents, pace, BOOT_S, 1200.0).run()
    calls = sorted(seen.calls)[len(seen.calls) // 2]
    fleet = Fleet(agents, calls, pace)
    model = Simulation(fleet, Events(boot=BOOT_S), keystone, barbican, 1200.0).run()
    busy = range(int(max(seen.served)) + 1)
    print(f"{agents} agents, {calls} calls a start, started over {jitter:.0f} s: real (model)")
    for name, ours, theirs in (
        ("half are served after", sorted(seen.served)[agents // 2], sorted(model.served)[agents // 2]),
        ("the last is served after", max(seen.served), max(model.served)),
        ("most requests in 1 s", most([seen.barbican[s] for s in busy], 1), most(model.barbican.load, 1)),
        ("most requests in 10 s", most([seen.barbican[s] for s in busy], 10), most(model.barbican.load, 10)),
        ("failed cycles", float(seen.failed), float(model.failed)),
    ):
        off = f", model {theirs / ours - 1:+.0%}" if ours else ""
        print(f"  {name:<26} {ours:7.1f} ({theirs:.1f}){off}")
    for failure, count in seen.failures.most_common():
        print(f"  {count} times {failure}")


def deployers(file: Path | None, vps: int = MILLION) -> None:
    """Follow the deployer of a large fleet through its days; print them, and write them for the picture."""
    from lab.bench_deployer import acts  # noqa: PLC0415  # only here are the deployer's libraries needed
    from lab.fleet import deployer  # noqa: PLC0415

    costs, runs = acts.kept(), []
    mean = deployer.usual_calls_s(costs, vps)
    capacity = deployer.RESERVE * mean
    print(
        f"{vps:,} VPSs; workers for {capacity:.0f} calls a second: {capacity / deployer.WORKER_CALLS_S:.0f}"
    )
    print(deployer.HEAD)
    for day in deployer.DAYS:
        seen = deployer.follow(day, costs, vps)
        print(deployer.line(day, seen, costs), flush=True)
        hours = deployer.hourly(seen, costs)
        runs.append({"text": day.text, "vps": vps, "capacity": capacity, "away": day.away, "hours": hours})
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(runs))


def borne_by_testbed() -> tuple[Capacity, Capacity]:
    """Return what the testbed's Barbican and Keystone bore when they were measured last."""
    from lab.fleet import measure  # noqa: PLC0415  # as in real()

    measured = json.loads(TESTBED.read_text())
    return measure.capacity(measured["barbican"]), measure.capacity(measured["keystone"])


def measure_testbed() -> None:
    """Write what the testbed bears to lab/fleet/testbed.json."""
    from lab.fleet import measure  # noqa: PLC0415  # as in real()
    from lab.testbed.cloud import Cloud  # noqa: PLC0415

    with Cloud() as cloud:
        measured = measure.measure(cloud)
    TESTBED.write_text(json.dumps(measured, indent=1) + "\n")
    print(f"wrote {TESTBED}")
    for service, rows in measured.items():
        for row in rows:
            print(f"  {service}: {row}")


def every(options: argparse.Namespace, barbican: Capacity, keystone: Capacity) -> Iterator[Scenario]:
    """Yield what is asked for: every scenario with each number of calls, then the reboot without remedies."""
    size = options.fleet_size or max(1, round(options.vps * BARBICAN.rate / options.capacity))
    costs = options.calls or (LISTED_CALLS, COLD_CALLS)
    for calls in costs:
        fleet = replace(fleet_of(options.vps, calls, size), cycle=options.timeout - 1.0)
        yield from all_of(fleet, barbican, keystone, options.hours)
    yield from without_remedy(options.vps, costs[0], barbican, options.hours)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Return what is asked for."""
    parser = argparse.ArgumentParser(prog="fleet", description=__doc__)
    parser.add_argument("--vps", type=int, default=10_000)
    parser.add_argument("--calls", type=int, action="append", help="of a cold start; default: 9 and 15")
    parser.add_argument("--capacity", type=float, default=BARBICAN.rate, help="of Barbican, requests/s")
    parser.add_argument(
        "--fleet-size", type=int, help="what agents are told; default: VPSs per 500 requests/s"
    )
    parser.add_argument("--testbed", action="store_true", help="what was measured instead of --capacity")
    parser.add_argument("--hours", type=float, default=4.0, help="to follow each scenario")
    parser.add_argument("--timeout", type=float, default=30.0, help="fetch.timeout: of a whole cycle (s)")
    parser.add_argument("--json", type=Path, help="write the runs there, for lab/fleet/draw.py")
    parser.add_argument("--sizes", action="store_true", help="only the promise, by fleet size")
    parser.add_argument("--measure", action="store_true", help="measure the testbed")
    parser.add_argument("--real", type=int, metavar="N", help="run N real agents on the testbed")
    parser.add_argument("--deployer", action="store_true", help="the deployer's days: a million VPSs")
    parser.add_argument("--spread", type=float, help="start jitter of the real agents (s)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Do what is asked for; without anything, every scenario for 10,000 VPSs."""
    options = parse(arguments)
    if options.testbed:
        barbican, keystone = borne_by_testbed()
        options.capacity = barbican.rate
    else:
        barbican = replace(BARBICAN, rate=options.capacity)
        keystone = replace(KEYSTONE, rate=KEYSTONE.rate * options.capacity / BARBICAN.rate)
    if options.measure:
        measure_testbed()
    elif options.deployer:
        deployers(options.json)
    elif options.real:
        real(options.real, options.spread)
    elif options.sizes:
        for told in promise(barbican):
            print(told, flush=True)
    else:
        began = time.monotonic()
        print(HEAD)
        runs = [drawn(scenario, *simulate(scenario)) for scenario in every(options, barbican, keystone)]
        print(f"{time.monotonic() - began:.0f} s")
        if options.json:
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps(runs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
