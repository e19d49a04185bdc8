"""Fixtures that several directories share, and what holds for every test."""

from __future__ import annotations

import os
import re
import signal
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import is_hypothesis_test, settings
from xdist.scheduler import LoadScopeScheduling

from lab.testbed.cloud import Cloud

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from xdist.remote import Producer


# What two files run shows its values in a failure, as tests of one file do.
pytest.register_assert_rewrite("tests.database")

# A shell starts what runs in the background with SIGINT ignored, and a program under test would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A machine may forbid it, as images of containers do: each process would compile all that it imports.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Examples for each property: --hypothesis-profile. No deadline: a busy machine is no defect of the code.
for name, examples in (("check", 10), ("ci", 50), ("nightly", 2000)):
    settings.register_profile(name, max_examples=examples, deadline=None)
settings.load_profile("ci")


@pytest.fixture(scope="session")
def cloud() -> Iterator[Cloud]:
    """The newest Keystone and Barbican, shared by all tests (of a worker) that do not break it."""
    with Cloud() as made:
        yield made


RANDOM = re.compile("[0-9a-f]{32}")
DEBIAN = re.compile(r"(?<=[\[-])(?:bookworm|trixie)(?=[]-])")
LONG = ("tests/cloud/", "tests/scenarios/")
"""Folders of tests that take minutes, all of them."""
LONGEST = {
    "test_beacon.py",
    "test_dashboard.py",
    "test_deployer_api.py",
    "test_deployer_api_hostile.py",
    "test_deployer_api_postgresql.py",
    "test_fetch_real.py",
    "test_worker_faults.py",
}
"""Files of tests/integration whose tests take a minute and more together."""
EXPECTED_SKIPS = ("this machine has no writable cgroup version 2 hierarchy",)
"""What a machine may lack. Any other skipped test fails: nothing is left out in silence."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what draws examples: -m property; and what scripts/test leaves to scripts/test-long: -m long.

    What takes long by itself begins first: else one worker would have it left when the others are done.
    """
    for item in items:
        if isinstance(item, pytest.Function) and is_hypothesis_test(item.obj):
            item.add_marker("property")
    items.sort(key=lambda item: (item.get_closest_marker("long") is None, item.path.name not in LONGEST))
    for item in items:
        if item.nodeid.startswith(LONG):
            item.add_marker("long")


class _ByDebian(LoadScopeScheduling):  # type: ignore[misc]  # pytest-xdist has no types
    """Keeps the tests of one file on one Debian together, so that they share what they boot."""

    def _split_scope(self, nodeid: str) -> str:
        """Return what runs on one worker, by the parameters in brackets."""
        debian = DEBIAN.search(nodeid)
        file = str(super()._split_scope(nodeid.partition("[")[0]))
        return f"{debian[0]}/{file}" if debian else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> _ByDebian | None:
    """Distribute tests by Debian: --dist loadgroup, whose own groups are lost on pytest 9."""
    return _ByDebian(config, log) if config.getvalue("dist") == "loadgroup" else None


def pytest_make_parametrize_id(val: object) -> str | None:
    """Leave random values out of a test's name: each worker of pytest-xdist must find the same tests."""
    text = val.decode("latin-1") if isinstance(val, bytes) else val
    if not isinstance(text, str) or not RANDOM.search(text):
        return None
    return RANDOM.sub("random", text).encode("unicode_escape").decode()


def _refuse_skip(report: pytest.CollectReport | pytest.TestReport) -> None:
    """Make a failure of what was skipped for a reason that is not expected."""
    told = str(report.longrepr)
    if report.skipped and not hasattr(report, "wasxfail") and not told.rstrip("')").endswith(EXPECTED_SKIPS):
        report.outcome = "failed"
        report.longrepr = f"skipped without an expected reason, so failed: {told}"


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Refuse a module that skips itself; here, since pytest-xdist drops what its workers skip."""
    report = yield
    _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Refuse a test that is skipped."""
    report = yield
    _refuse_skip(report)
    return report
