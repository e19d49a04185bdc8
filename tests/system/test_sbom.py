"""The software bills of materials say what is on a machine on which the packages are installed."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from lab import sbom
from lab.testbed.running import ROOT

if TYPE_CHECKING:
    from pathlib import Path

PACKAGES = ("vps-secrets-agent", "vps-secrets-deployer")


@pytest.fixture(params=PACKAGES)
def deb(request: pytest.FixtureRequest) -> Path:
    """A package as it is built."""
    (found,) = (ROOT / "build/deb").glob(f"{request.param}_*.deb")
    return found


def test_it_names_what_is_installed_and_nothing_else(deb: Path, rootfs: Path) -> None:
    """Each component in the version that dpkg has there; all that apt would install is among them."""
    made: dict[str, Any] = json.loads(sbom.bill(deb, rootfs))
    listed = {part["name"]: part["version"] for part in made["components"]}
    query = ["dpkg-query", f"--admindir={rootfs}/var/lib/dpkg", "--show"]
    there = dict(
        line.split("\t")
        for line in subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()
    )
    assert {name.partition(":")[0]: version for name, version in there.items()}.items() >= listed.items()
    assert {"python3", "libc6", "python3-cryptography", "libssl3", "libssl3t64"} - listed.keys() in (
        {"libssl3"},
        {"libssl3t64"},
    )
    own = made["metadata"]["component"]
    digest = subprocess.run(["sha256sum", deb], capture_output=True, text=True, check=True).stdout.split()[0]
    assert own["hashes"] == [{"alg": "SHA-256", "content": digest}]
    refs = {part["bom-ref"] for part in (own, *made["components"])}
    graph = {entry["ref"]: entry.get("dependsOn", []) for entry in made["dependencies"]}
    assert graph.keys() == refs
    assert {ref for needed in graph.values() for ref in needed} <= refs
    assert sbom.bill(deb, rootfs) == sbom.bill(deb, rootfs)


def test_what_is_missing_is_reported(deb: Path, tmp_path: Path) -> None:
    """By its name, instead of a bill without it."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/os-release").write_text('VERSION_ID="13"\n')
    database = tmp_path / "var/lib/dpkg"
    (database / "info").mkdir(parents=True)
    (database / "updates").mkdir()
    (database / "status").write_text("")
    with pytest.raises(sbom.BillError, match=r"needs .*, which is not installed there"):
        sbom.bill(deb, tmp_path)
