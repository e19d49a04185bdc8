"""Fixtures that several directories share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.cloud.cloud import Cloud

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def cloud() -> Iterator[Cloud]:
    """The newest Keystone and Barbican, shared by all tests that do not break it."""
    with Cloud() as made:
        yield made


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what a skipped test is here."""
    if terminalreporter.stats.get("skipped"):
        terminalreporter.write_line(
            "a skipped test is a failed one: nothing is left out in silence", red=True
        )


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run where a test was skipped."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and reporter.stats.get("skipped") and not session.exitstatus:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
