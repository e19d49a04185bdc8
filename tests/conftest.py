"""Fixtures that several directories share."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from lab.testbed.cloud import Cloud

if TYPE_CHECKING:
    from collections.abc import Iterator


# A shell starts what runs in the background with SIGINT ignored, and a program under test would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def cloud() -> Iterator[Cloud]:
    """The newest Keystone and Barbican, shared by all tests that do not break it."""
    with Cloud() as made:
        yield made


EXPECTED_SKIPS = ("this machine has no writable cgroup version 2 hierarchy",)
"""What a machine may lack. Any other skipped test fails the run: nothing is left out in silence."""


def unexpected(reporter: pytest.TerminalReporter) -> list[str]:
    """Return the tests that were skipped for a reason that is not expected."""
    skipped = reporter.stats.get("skipped", [])
    return [
        report.nodeid for report in skipped if not str(report.longrepr).rstrip("')").endswith(EXPECTED_SKIPS)
    ]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what a skipped test is here."""
    for test in unexpected(terminalreporter):
        terminalreporter.write_line(f"skipped without an expected reason, so failed: {test}", red=True)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run where a test was skipped."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and unexpected(reporter) and not session.exitstatus:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
