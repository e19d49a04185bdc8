"""Software bill of materials of a package: what it is made of on one Debian, as CycloneDX 1.6 (ECMA-424).

The components are what the package's Depends and Pre-Depends bring, followed through the package database
(dpkg(1)) of a root file system in which they are installed: scripts/rootfs. Recommends are left out. Licences
are in /usr/share/doc/PACKAGE/copyright of each. The same bytes each time.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL

if TYPE_CHECKING:
    from collections.abc import Iterator

FIELDS = ("Package", "Version", "Architecture", "Pre-Depends", "Depends", "Provides", "Status")


class BillError(Exception):
    """The bill can't be made; the text says what is missing."""


@dataclass(frozen=True)
class Package:
    """One entry of the database. ``needs``: for each of its dependencies the names that would do."""

    name: str
    version: str
    architecture: str
    needs: tuple[tuple[str, ...], ...]
    provides: tuple[str, ...]


def _parsed(fields: dict[str, str]) -> Package:
    needs = [need for key in ("Pre-Depends", "Depends") for need in _split(fields[key], ",")]
    return Package(
        fields["Package"],
        fields["Version"],
        fields["Architecture"],
        tuple(tuple(map(_name, _split(need, "|"))) for need in needs),
        tuple(map(_name, _split(fields["Provides"], ","))),
    )


def _split(text: str, by: str) -> list[str]:
    return [part.strip() for part in text.split(by) if part.strip()]


def _name(relation: str) -> str:
    """Return the name in ``name:arch (>= 1) [amd64]`` (Debian Policy, 7.1)."""
    return re.split(r"[ :(\[]", relation, maxsplit=1)[0]


def _query(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BillError(done.stderr.strip())
    return done.stdout


def installed(root: Path) -> dict[str, Package]:
    """Return what is installed below ``root``, by its names and those that it provides.

    Raises:
        BillError: there is no package database.
    """
    form = "\x1f".join(f"${{{field}}}" for field in FIELDS) + "\x1e"
    text = _query("dpkg-query", f"--admindir={root / 'var/lib/dpkg'}", "--show", f"--showformat={form}")
    entries = [dict(zip(FIELDS, entry.split("\x1f"), strict=True)) for entry in text.split("\x1e") if entry]
    packages = [_parsed(entry) for entry in entries if entry["Status"].endswith(" installed")]
    named = {name: package for package in packages for name in package.provides}
    return named | {package.name: package for package in packages}


def of_deb(deb: Path) -> Package:
    """Return the package in a file.

    Raises:
        BillError: it is none.
    """
    form = "".join(f"{field}=${{{field}}}\n" for field in FIELDS[:-1])
    lines = _query("dpkg-deb", "--show", f"--showformat={form}", deb).splitlines()
    return _parsed(dict(line.split("=", 1) for line in lines))


def closure(package: Package, there: dict[str, Package]) -> dict[str, tuple[Package, list[Package]]]:
    """Return what a package brings with it, each with what that needs itself; its own entry is the first.

    Raises:
        BillError: a dependency is not installed.
    """
    found: dict[str, tuple[Package, list[Package]]] = {}
    open_ends = [package]
    while open_ends:
        one = open_ends.pop()
        if one.name not in found:
            needed = list(dict.fromkeys(_needed(one, there)))
            found[one.name] = one, needed
            open_ends += needed
    return found


def _needed(package: Package, there: dict[str, Package]) -> Iterator[Package]:
    for names in package.needs:
        chosen = next((there[name] for name in names if name in there), None)
        if chosen is None:
            raise BillError(f"{package.name} needs {' | '.join(names)}, which is not installed there")
        yield chosen


def bill(deb: Path, root: Path) -> str:
    """Return the bill of a package on the Debian below ``root``, as JSON.

    Raises:
        BillError: it is no package, or what it needs is not installed there.
    """
    release = dict(
        line.split("=", 1) for line in (root / "etc/os-release").read_text().splitlines() if "=" in line
    )
    distro = f"debian-{release['VERSION_ID'].strip(chr(34))}"
    package = of_deb(deb)
    found = closure(package, installed(root))
    parts = {name: _component(one, distro) for name, (one, _) in found.items()}
    own = parts[package.name]
    digest = hashlib.sha256(deb.read_bytes()).hexdigest()
    own.type = ComponentType.APPLICATION
    own.hashes.add(HashType(alg=HashAlgorithm.SHA_256, content=digest))
    made = Bom(components=[part for part in parts.values() if part is not own])
    made.metadata.component = own
    for name, (_, needed) in found.items():
        made.register_dependency(parts[name], [parts[one.name] for one in needed])
    text = "\n".join(f"{one.name} {one.version}" for one, _ in found.values()) + digest
    made.serial_number = UUID(bytes=hashlib.sha256(text.encode()).digest()[:16], version=4)
    outcome = json.loads(make_outputter(made, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string())
    del outcome["metadata"]["timestamp"]  # the same bytes each time
    return json.dumps(outcome, indent=2, sort_keys=True)


def _component(package: Package, distro: str) -> Component:
    where = {"arch": package.architecture, "distro": distro}
    url = PackageURL("deb", "debian", package.name, package.version, where)
    return Component(
        name=package.name,
        version=package.version,
        purl=url,
        bom_ref=url.to_string(),
        type=ComponentType.LIBRARY,
    )


def main() -> int:
    """Write the bill to standard output."""
    parser = argparse.ArgumentParser(description="A software bill of materials (CycloneDX) of a package.")
    parser.add_argument("deb", type=Path, help="the package")
    parser.add_argument(
        "root", type=Path, help="a root file system with what it depends on: build/rootfs/trixie"
    )
    options = parser.parse_args()
    try:
        print(bill(options.deb, options.root))
    except BillError as error:
        parser.exit(1, f"sbom: {error}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
