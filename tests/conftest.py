"""Fixtures that several directories share, and what holds for every test."""

from __future__ import annotations

import re
import signal
from typing import TYPE_CHECKING

import pytest
from hypothesis import is_hypothesis_test, settings

from lab.testbed.cloud import Cloud

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator


# A shell starts what runs in the background with SIGINT ignored, and a program under test would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

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
EXPECTED_SKIPS = ("this machine has no writable cgroup version 2 hierarchy",)
"""What a machine may lack. Any other skipped test fails: nothing is left out in silence."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what draws examples: -m property."""
    for item in items:
        if isinstance(item, pytest.Function) and is_hypothesis_test(item.obj):
            item.add_marker("property")


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
