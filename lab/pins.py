"""Writes the SHA-256 of the files of each pinned version into scripts/constraints/, as PyPI gives them.

For a version that was changed by hand there. pip then takes no other bytes (pip install --require-hashes). Of
wheels, those for Python 3.11 and later on Linux, x86_64 and aarch64. Where a version stays and a hash goes,
its files were exchanged: that is to be looked into, and ends this with 1.

The index is read as PEP 691 says.
"""

from __future__ import annotations

import json
import re
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

INDEX = "https://pypi.org/simple"
PINS = Path(__file__).parents[1] / "scripts" / "constraints"
PLATFORM = re.compile(r"any|.*manylinux.*_(x86_64|aarch64)")
PYTHON = re.compile(r".*py3.*|cp31[1-9]")
ENTRY = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)( ; [^#]+?)?((?: --hash=sha256:[0-9a-f]{64})*)$")


def main(names: list[str]) -> int:
    """Renew the files of these names, or all. Returns 1 where a hash is gone that a version had."""
    files = [Path(name) for name in names] or sorted(PINS.glob("*.txt"))
    result = 0
    for file in files:
        lines = file.read_text().splitlines()
        with ThreadPoolExecutor(8) as pool:
            renewed = list(pool.map(_renewed, lines))
        for before, after in zip(lines, renewed, strict=True):
            if gone := set(_hashes(before)) - set(_hashes(after)):
                print(
                    f"{file}: {before.split()[0]}: {len(gone)} of its files are others now", file=sys.stderr
                )
                result = 1
        file.write_text("\n".join(renewed) + "\n")
        print(f"{file.name}: {sum(line.count('--hash') for line in renewed)} hashes", file=sys.stderr)
    return result


def _renewed(line: str) -> str:
    entry = ENTRY.match(line)
    if entry is None:
        if line and not line.startswith("#"):
            raise SystemExit(f"{line!r} is not name==version with hashes")
        return line
    name, version = entry[1], entry[2]
    hashes = sorted({f"--hash=sha256:{digest}" for digest in _digests(name, version)})
    if not hashes:
        raise SystemExit(f"{INDEX} has no files of {name} {version}")
    return f"{name}=={version}{entry[3] or ''} {' '.join(hashes)}"


def _digests(name: str, version: str) -> list[str]:
    normal = _normal(name)
    request = urllib.request.Request(  # noqa: S310  # https, above
        f"{INDEX}/{normal}/", headers={"Accept": "application/vnd.pypi.simple.v1+json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        found = json.load(answer)["files"]
    return [file["hashes"]["sha256"] for file in found if is_of(file["filename"], normal, version)]


def is_of(file: str, normal: str, version: str) -> bool:
    """Return whether a wheel or source archive is of a version (binary and source distribution formats)."""
    if not file.endswith(".whl"):
        parts = file.removesuffix(".tar.gz").removesuffix(".zip").rpartition("-")
        return (_normal(parts[0]), parts[2]) == (normal, version)
    name, of, *_, python, abi, platform = file.removesuffix(".whl").split("-")
    runs = PLATFORM.fullmatch(platform) and (abi == "abi3" or PYTHON.fullmatch(python))
    return (_normal(name), of) == (normal, version) and bool(runs)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _hashes(line: str) -> list[str]:
    return re.findall(r"--hash=\S+", line)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
