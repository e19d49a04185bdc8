"""The clouds of both releases that the tests have."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from lab.testbed import tenant as sites
from lab.testbed.cloud import Cloud
from lab.testbed.tenant import Registrar, Tenant
from lab.testbed.testbed import Options

if TYPE_CHECKING:
    from collections.abc import Iterator

BUILD = Path(__file__).parents[2] / "build"


@pytest.fixture(scope="session", params=["cloud-venv", "cloud-2025.1-venv"], ids=["newest", "2025.1"])
def either(request: pytest.FixtureRequest) -> Iterator[Cloud]:
    """A cloud of each release, shared by the tests that do not break it; Barbican asks for every token."""
    with Cloud(Options(venv=BUILD / request.param, token_cache_time=-1)) as made:
        yield made


@pytest.fixture(scope="module")
def tenant(either: Cloud) -> Tenant:
    """The site's domain, manager and projects."""
    return sites.make(either)


@pytest.fixture(scope="module")
def registrar(tenant: Tenant, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registrar]:
    """The registrar of that domain."""
    with Registrar(tenant.configuration(tmp_path_factory.mktemp("registrar"))) as running:
        yield running


TWICE: Final = {
    "test_acknowledge.py",
    "test_adopting.py",
    "test_cloud_command.py",
    "test_cloud_verify.py",
    "test_join.py",
    "test_join_keep.py",
    "test_registrar.py",
    "test_registrar_pool.py",
    "test_renewal.py",
    "test_revocation.py",
}
"""Minutes for each release: make nightly tries the older one."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave the older release of the longest files to the night."""
    for item in items:
        if item.path.name in TWICE and "2025.1" in item.name:
            item.add_marker(pytest.mark.nightly)
