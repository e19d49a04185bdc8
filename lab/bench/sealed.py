"""``python -m lab.bench.sealed``: what a first reading of seven sealed secrets costs beside seven plain ones.

A reading is fetch's own, as a cycle makes it when nothing is known (``--trial``), against a real Keystone and
Barbican. Plain and sealed take turns, and differences are taken within a round. CPU time is the process's
own; memory is the most that it ever had (VmHWM). The same values are read; what differs is that they are
opened, and the library that is loaded for it. As root also on the Debians that scripts/rootfs has built: what
is promised, and told by the exit status, is about them. A number is that of rounds.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from common import sealing, sealing_key
from common.names import SecretName
from common.sealed import Header
from deployer.cloud.secrets import DEMO_NAMES, generate_value
from lab.bench.tools import BUILD, ROOT, progress
from lab.testbed.cloud import Cloud

if TYPE_CHECKING:
    from deployer.cloud.secrets import Vps

ROUNDS: Final = 15
MOST_MS: Final = 30.0
MOST_MB: Final = 8.0
LENGTHS: Final = (43, 64, 120, 1704, 14_765)
"""Of a random value of 256 bits, of 48 bytes, of a URL, of an RSA key of 3072 bits, and the longest."""
SYSTEMS: Final = {name: BUILD / "rootfs" / name for name in ("bookworm", "trixie")}
"""Debian's own Python and libraries, as the package has them."""
_RUN: Final = """
import json, re, resource, runpy, sys
sys.path += {path!r}
try:
    runpy.run_module("agent.fetch", run_name="__main__", alter_sys=True)
finally:
    used, status = resource.getrusage(resource.RUSAGE_SELF), open("/proc/self/status").read()
    peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1]) / 1024
    print(json.dumps([used.ru_utime + used.ru_stime, peak]), file=sys.stderr)
"""
_INSIDE: Final = """set -e
mount -t tmpfs tmpfs /mnt && mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay overlay -o "lowerdir=$1,upperdir=/mnt/upper,workdir=/mnt/work" /mnt/root
mkdir -p "/mnt/root$2" "/mnt/root$3"
mount --bind "$2" "/mnt/root$2"; mount --bind "$3" "/mnt/root$3"; mount -t proc proc /mnt/root/proc
shift 3; exec chroot /mnt/root "$@"
"""


@dataclass(frozen=True, slots=True)
class Reading:
    """What one reading cost: CPU time (ms), and the most memory (MiB)."""

    cpu_ms: float
    peak_mb: float


def programs(directory: Path) -> dict[str, list[str]]:
    """Return the command lines that run fetch: on this environment, and on each Debian that was built."""
    here = [sys.executable, "-c", _RUN.format(path=[str(ROOT)])]
    found = {"this environment": here}
    code = _RUN.format(path=[str(ROOT), "/usr/lib/python3/dist-packages"])
    for name, system in SYSTEMS.items():
        if system.is_dir() and os.geteuid() == 0:
            inside = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _INSIDE, "sh"]
            places = [str(system.resolve()), str(ROOT), str(directory)]
            found[name] = [*inside, *places, "/usr/bin/python3", "-IS", "-c", code]
    return found


def read(program: list[str], configuration: Path) -> Reading:
    """Read everything once, in a process of its own.

    Raises:
        SystemExit: it did not read all of it.
    """
    command = [*program, "--trial", "--config", str(configuration)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    report = json.loads(done.stdout or "{}")
    if len(report.get("read", ())) != len(DEMO_NAMES):
        raise SystemExit(f"bench: not everything was read: {report}{done.stderr[-500:]}")
    cpu_s, peak = json.loads(done.stderr.splitlines()[-1])
    return Reading(cpu_s * 1000, peak)


def configure(cloud: Cloud, vps: Vps, directory: Path, private: bytes) -> Path:
    """Return the configuration of a VPS that has a key."""
    directory.mkdir()
    key = directory / "sealing-key"
    key.touch(0o600)
    key.write_text(sealing_key.encoded(private) + "\n")
    path = directory / "agent.toml"
    path.write_text(cloud.configuration(vps, directory, f'[fetch]\nsealing_key_file = "{key}"\n'))
    return path


def lengths() -> list[str]:
    """Return how long a sealed value is, for a VPS and a secret with names as they are."""
    _, public = sealing.new_key()
    header = Header("vps-prod-001", SecretName("JWT_SECRET"), 1_795_000_000_000, 1_795_000_000_000)
    rows = [(size, len(sealing.seal(os.urandom(size), public, header))) for size in LENGTHS]
    return ["| bytes of a value | sealed |", "|---|---|", *(f"| {a:,} | {b:,} |" for a, b in rows)]


@dataclass
class Rounds:
    """The readings of one Python, in the order of their rounds."""

    plain: list[Reading] = field(default_factory=list)
    sealed: list[Reading] = field(default_factory=list)

    def row(self, system: str, what: str, unit: str, most: float) -> str:
        """Return one line: medians, and the median of the differences within a round."""
        more = self.more(unit)
        medians = [statistics.median(of(one, unit) for one in ones) for ones in (self.plain, self.sealed)]
        figures = " | ".join(f"{figure:.1f} {unit}" for figure in (*medians, more))
        return f"| {system}: {what} | {figures} | at most {most:g}{'' if more <= most else ': **missed**'} |"

    def more(self, unit: str) -> float:
        """Return by how much a sealed reading costs more."""
        pairs = zip(self.plain, self.sealed, strict=True)
        return statistics.median(of(sealed, unit) - of(plain, unit) for plain, sealed in pairs)


def of(reading: Reading, unit: str) -> float:
    """Return a reading's figure by its unit."""
    return reading.cpu_ms if unit == "ms" else reading.peak_mb


def main() -> int:
    """Measure, and print what docs/figures.md has."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    values = {name: generate_value(name) for name in DEMO_NAMES}
    private, public = sealing.new_key()
    with Cloud() as cloud, tempfile.TemporaryDirectory(prefix="vsa-bench-") as place:
        closed = {
            name: sealing.seal(value, public, Header("vps-sealed-001", SecretName(name), 1))
            for name, value in values.items()
        }
        plain = configure(cloud, cloud.vps("vps-plain-001", values), Path(place, "plain"), private)
        sealed = configure(cloud, cloud.vps("vps-sealed-001", closed), Path(place, "sealed"), private)
        found: dict[str, Rounds] = {}
        for system, program in programs(Path(place)).items():
            found[system] = Rounds()
            read(program, plain), read(program, sealed)  # whose modules are compiled then
            for number in range(rounds):
                progress(f"{system}: a first reading, {number + 1} of {rounds}")
                found[system].plain.append(read(program, plain))
                found[system].sealed.append(read(program, sealed))
    print(f"Load {os.getloadavg()[0]:.0f}; {rounds} rounds.\n")
    print("| a first reading of seven | plain | sealed | more | goal |\n|---|---|---|---|---|")
    for system, readings in found.items():
        print(readings.row(system, "CPU of fetch", "ms", MOST_MS))
        print(readings.row(system, "most memory of fetch", "MiB", MOST_MB))
    print("\n".join(["", *lengths()]))
    packaged = [readings for system, readings in found.items() if system in SYSTEMS]
    return int(any(one.more("ms") > MOST_MS or one.more("MiB") > MOST_MB for one in packaged))


if __name__ == "__main__":
    sys.exit(main())
