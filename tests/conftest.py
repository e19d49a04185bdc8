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
