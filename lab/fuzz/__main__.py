"""``python -m lab.fuzz --seconds N [TARGET...]``: fuzzes each target for its share, and says what came of it.

With atheris (libFuzzer, guided by the coverage of agent, common and deployer), each target in a process of
its own. An input that breaks a sentence is left below build/fuzz/, and the exit status is 1. Inputs that
reach something new are kept in build/fuzz/corpus for the next run.
"""

from __future__ import annotations

import argparse
import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
FOLDER: Final = ROOT / "build" / "fuzz"
LONGEST: Final = 4096
START_S: Final = 120


def main() -> int:
    """Fuzz, or be one of the processes that do."""
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    parser.add_argument("--seconds", type=int, default=60, help="for all together")
    parser.add_argument("--list", action="store_true", help="print the targets with their sentences")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        _inside(options.targets[0], options.seconds)
    from lab.fuzz.targets import TARGETS  # noqa: PLC0415  # of the process that fuzzes it is instrumented

    chosen = [one for one in TARGETS if not options.targets or one.name in options.targets]
    if options.list:
        for one in chosen:
            print(f"{one.name:20} {one.sentence}")
        return 0
    share = max(1, options.seconds // max(1, len(chosen)))
    total, failed = 0, []
    for one in chosen:
        count, edges, broken = _fuzz(one.name, one.seeds, share)
        total += count
        print(f"{one.name:20} {count:>10,} executions  {edges:>6} edges  {broken or one.sentence}")
        if broken:
            failed.append(one.name)
    print(f"{'all':20} {total:>10,} executions; broken: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


def _fuzz(name: str, seeds: tuple[bytes, ...], seconds: int) -> tuple[int, int, str]:
    """Run one target in a process; return executions, edges reached, and what broke."""
    corpus = FOLDER / "corpus" / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    line = [sys.executable, "-m", "lab.fuzz", "--inside", "--seconds", str(seconds), name]
    ran = subprocess.run(
        line, cwd=ROOT, capture_output=True, text=True, check=False, timeout=seconds + START_S
    )
    said = ran.stdout + ran.stderr
    (FOLDER / f"{name}.log").write_text(said)
    counted = re.search(r"number_of_executed_units: (\d+)", said)
    edges = re.findall(r"cov: (\d+)", said)
    broken = ""
    if ran.returncode:
        why = re.findall(r"^(?:\w+\.)*\w*(?:Error|Exception)\b.*$", said, re.MULTILINE)
        broken = f"BROKEN: {(why or [f'status {ran.returncode}'])[0][:120]}; see build/fuzz/{name}.log"
    return int(counted[1]) if counted else 0, int(edges[-1]) if edges else 0, broken


def _inside(name: str, seconds: int) -> None:
    """Fuzz one target; does not return."""
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["agent", "common", "deployer"]):
        targets = importlib.import_module("lab.fuzz.targets")
    (target,) = (one for one in targets.TARGETS if one.name == name)

    def run(data: bytes) -> None:
        target.run(data)

    words = ["fuzz", str(FOLDER / "corpus" / name), f"-max_total_time={seconds}", f"-max_len={LONGEST}"]
    words += ["-print_final_stats=1", "-rss_limit_mb=2048", f"-artifact_prefix={FOLDER}/{name}-"]
    atheris.Setup(words, run)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
